//! Pack to tokens.
