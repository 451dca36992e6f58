//! Recognises what people have in the place of a weight file: pointers, error pages, archives.

use crate::error::Error;
use std::path::Path;

/// Something that is not a checkpoint file, with what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A Git LFS or Xet pointer.
    Pointer,
    /// HTML or XML, as servers send instead of a file.
    WebPage,
    /// gzip, xz, zstd, 7z, bzip2.
    Compressed,
    /// A zip archive or a bare pickle: PyTorch's own formats.
    Pickle,
    /// GGML, GGMF, GGJT: what GGUF replaced in 2023.
    OldGgml,
    /// A pack of this program.
    Pack,
    /// A GGUF file.
    Gguf,
}

/// What the first bytes of a file say, if they are known. 32 bytes suffice.
pub(super) fn recognise(head: &[u8]) -> Option<Known> {
    // A safetensors header whose length happens to spell one of the magics below.
    if head.get(5..9) == Some(b"\0\0\0{") {
        return None;
    }
    let starts = |magic: &[u8]| head.starts_with(magic);
    let text_start = head.iter().position(|b| !b.is_ascii_whitespace()).and_then(|i| head.get(i..)).unwrap_or_default();
    let tag = |tag: &str| text_start.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag.as_bytes()));
    if starts(b"version https://git-lfs") || starts(b"# xet version") || starts(b"version https://xet") {
        Some(Known::Pointer)
    } else if tag("<!doctype") || tag("<html") || tag("<?xml") || tag("<head") {
        Some(Known::WebPage)
    } else if [&b"\x1f\x8b"[..], b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"BZh"].into_iter().any(starts) {
        Some(Known::Compressed)
    } else if starts(b"PK\x03\x04") || matches!(head, [0x80, 2..=5, b'}' | b']' | b'c' | b'(' | b'N' | b'X' | 0x8a | 0x8c | 0x95, ..]) {
        Some(Known::Pickle)
    } else if [&b"lmgg"[..], b"fmgg", b"tjgg", b"algg"].into_iter().any(starts) {
        Some(Known::OldGgml)
    } else if starts(&forebay_format::layout::MAGIC) {
        Some(Known::Pack)
    } else if starts(b"GGUF") {
        Some(Known::Gguf)
    } else {
        None
    }
}

impl Known {
    /// The error for a file that is this instead of what was expected.
    pub fn error(self, file: &Path) -> Error {
        let (what, hint) = match self {
            Known::Pointer => {
                return Error::Source {
                    path: file.to_path_buf(),
                    why:
                        "is a Git LFS pointer, not the file itself: run `git lfs pull` in the repository, or download it with `hf download`"
                            .into(),
                };
            }
            Known::WebPage => {
                return Error::Source {
                    path: file.to_path_buf(),
                    why: "is a web page, not the file itself: the download was refused or redirected; download it with `hf download`"
                        .into(),
                };
            }
            Known::Compressed => ("a compressed file", "unpack it first"),
            Known::Pickle => (
                "a pickle file",
                "unpickling can run any code, so this program never does; download the safetensors version of the model, or convert it with \
                 safetensors' own convert.py in a sandbox",
            ),
            Known::OldGgml => ("a GGML file from before GGUF", "download the model as GGUF or safetensors"),
            Known::Pack => ("a Forebay pack as a source", "it is converted already: use `inspect`, `verify` or `forebay run`"),
            Known::Gguf => ("a GGUF file under this name", "name it *.gguf and convert it by its path"),
        };
        Error::Unsupported { what: format!("{}: {what}", file.display()), hint: hint.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_beginnings() {
        let cases: &[(&[u8], Option<Known>)] = &[
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", Some(Known::Pointer)),
            (b"  \n<!DOCTYPE html><html>", Some(Known::WebPage)),
            (b"<HTML><body>404", Some(Known::WebPage)),
            (b"\x1f\x8b\x08\0\0\0", Some(Known::Compressed)),
            (b"PK\x03\x04archive/data.pkl", Some(Known::Pickle)),
            (b"\x80\x02}q\0", Some(Known::Pickle)),
            (b"tjgg\x03\0\0\0", Some(Known::OldGgml)),
            (b"GGUF\x03\0\0\0", Some(Known::Gguf)),
            // A safetensors file with a header of 0x280 bytes begins with the bytes of a pickle, but goes on with zeros.
            (b"\x80\x02\0\0\0\0\0\0{\"a\":{", None),
            (b"\x1f\x8b\x08\0\0\0\0\0{\"a\":", None),
            (b"{\"a\": 1}", None),
            (b"", None),
        ];
        for (head, expected) in cases {
            assert_eq!(recognise(head), *expected, "{}", String::from_utf8_lossy(head));
        }
    }
}
