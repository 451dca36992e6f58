//! The smallest tokenizer of a given size: a token for each byte, and words that no text contains for the rest.

use std::fmt::Write;

/// A `tokenizer.json` with `vocab` tokens; `None` if they are fewer than bytes.
pub fn tokenizer_json(vocab: u32) -> Option<String> {
    if vocab < 256 {
        return None;
    }
    let mut text = String::from(
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,\
         \"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},\
         \"post_processor\":null,\
         \"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\
         \"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\
         \"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"merges\":[],\"vocab\":{",
    );
    for (id, character) in byte_characters().enumerate() {
        let quoted = serde_json::Value::from(character.to_string());
        // Writing into a string cannot fail, here and below.
        let _ = write!(text, "{}{quoted}:{id}", if id == 0 { "" } else { "," });
    }
    for id in 256..vocab {
        let _ = write!(text, ",\"\u{120}{id}\":{id}");
    }
    Some(text + "}}}")
}

/// The character that stands for each byte in byte-level vocabularies: itself if it can be printed, else the next free one from U+0100 on.
fn byte_characters() -> impl Iterator<Item = char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    (0..256u32).scan(256, move |next, byte| {
        let code = if printable(byte) {
            byte
        } else {
            *next += 1;
            *next - 1
        };
        Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    })
}

#[cfg(test)]
mod tests {
    use super::tokenizer_json;

    #[test]
    fn bytes_come_back_and_every_id_is_a_word() {
        assert!(tokenizer_json(255).is_none());
        let tokenizer: tokenizers::Tokenizer = tokenizer_json(1000).unwrap().parse().unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), 1000);
        let text = "Grüße, \"forebay\" \\ 7\n";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(ids.len(), text.len());
        assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
        assert_eq!(tokenizer.decode(&[999], false).unwrap(), " 999");
    }
}
