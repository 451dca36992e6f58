#!/usr/bin/env python3
"""Token ids by the Python `tokenizers` package, for runtime/tests/fixtures/tokenizer-vectors.json.

    pip install tokenizers==0.23.2
    python scripts/oracle/tokenizer_vectors.py NAME=TOKENIZER_JSON [...] > runtime/tests/fixtures/tokenizer-vectors.json

The package uses another regular expression engine (Oniguruma) than our build of the crate does, so equality here says
something about the splitting rules too. Each document is used twice: as it is, and without its normalizer, which is what
the translation of a GGUF vocabulary has. The fixture holds `small` (the 512-token vocabulary beside it) and `trained` (the
one that the bundled model and models/q35-moe-45m share).
"""
import json
import sys

import tokenizers

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "  leading and trailing  ",
    "It's we'll THEY'RE I'D don't 'tis o'clock",
    "def f(x):\n    return {'a': [1, 2.5e-3, 0xFF]}  # comment\n\n\tif x != y:\n\t\tpass\n",
    "#include <stdio.h>\r\nint main(void) { printf(\"%d\\n\", 42); return 0; }\r\n",
    "<div class=\"a b\">&amp;&nbsp;</div><!-- x -->",
    "SELECT * FROM t WHERE a='b' AND c<>1;--",
    "0 1 12 123 1234 12345 3.14159 1,000,000 ½ ² Ⅷ ٣ ४",
    "日本語のテキスト、漢字とかな。全角ＡＢＣ１２３",
    "你好，世界！这是一个测试。1314151天～",
    "한국어 텍스트 안녕하세요",
    "Привет, мир! Ёлка",
    "Ελληνικά ΚΕΙΜΕΝΟ ς σ",
    "مرحبا بالعالم ١٢٣",
    "שלום עולם",
    "हिन्दी पाठ क्षत्रिय",
    "ไทยไม่มีเว้นวรรค",
    "កាន់តែពិសេសអាចខលចេញ",
    "🙂🙃 👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 ✅ 😶‍🌫️ 🧑🏽‍🚀",
    "e\u0301 \u00e9 a\u0308\u0323 Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d n\u0303o",
    "\u1e9b\u0323 \u212b \ufb01 \u2126 \u00b5",
    "İI ıi ſ K 'ſ",
    "\x00\x01\x02\x07\x08\x0b\x0c\x1b[31m\x7f\x80\x9f",
    "\u00a0\u2003\u3000\u200b\u200d\u2028\u2029\ufeff\u180e",
    "\ue000\uf8ff\ufdd0\uffff\U0010ffff\U000e0041",
    " " * 3 + "\n" * 4 + "\t" * 5 + " \n \n x",
    "x" + " " * 1000 + "y" + "\n" * 300 + "z",
    "a" * 3000,
    "=" * 200 + "-" * 77 + "_" * 5 + "." * 9 + "!?" * 20,
    "\r\r\n\n\r x\r",
    "<|endoftext|> and <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_start|> <|im_end|>x<|im_end",
    "<think>\nhm\n</think>\n\n<tool_call>{\"name\": \"f\"}</tool_call>",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt",
    "CamelCaseAndsnake_case and kebab-case UPPERCASE",
    "“Quotes” ‘single’ «guillemets» — dash – en … ellipsis",
    "∀x∈ℝ: ∑ᵢ xᵢ² ≥ 0 ⇒ √π ≠ ∞ ± ∓ × ÷",
]


def main():
    out = []
    for argument in sys.argv[1:]:
        name, path = argument.split("=", 1)
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        out.append({"tokenizer": name, "normalizer": True, "cases": cases(document)})
        document["normalizer"] = None
        out.append({"tokenizer": name, "normalizer": False, "cases": cases(document)})
    json.dump({"package": tokenizers.__version__, "tokenizers": out}, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    print()


def cases(document):
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    out = []
    for text in TEXTS:
        tokenizer.encode_special_tokens = False
        parsed = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": parsed, "decoded": tokenizer.decode(parsed, skip_special_tokens=False)}
        if plain != parsed:
            case["plain"] = plain
        out.append(case)
    return out


main()
