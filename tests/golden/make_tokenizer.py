"""Makes tests/golden/tokenizer/: a tiny unigram vocabulary in both files, and transformers' ids.

    python tests/golden/make_tokenizer.py        (needs transformers and diffusers)

`spiece.model` is trained here; `tokenizer.json` is what transformers makes of it, with 8 extra ids;
`ids.json` maps strings to their cleaned form (diffusers) and their ids (transformers).
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import T5TokenizerFast

FOLDER = Path(__file__).parent / "tokenizer"
EXTRA_IDS = 8
SENTENCES = (
    "A red fox named Pip walks to the lake, while the rain falls.",
    "At the lake, a blue owl called Bo meets Pip & waves: don't go!",
    'Pip says "five owls"; Bo sits <here> in 4K, 16:9.',
    "一只红色的狐狸在湖边走。",
    "Ein Café für Füchse, señor.",
)
# A few of the rules of nmt_nfkc, whose whole table would take 240 KB.
RULES = (("ﬁ", "fi"), ("Ａ", "A"), ("４", "4"), ("\xa0", " "), ("\u200b", " "), ("…", "..."))
STRINGS = (
    "",
    " ",
    "Pip waves.",
    "  A red\tfox \n\n walks   to the lake. ",
    "Pip &amp; Bo",
    "Pip &amp;amp; Bo &lt;here&gt; &quot;five&quot;",
    "donâ€™t go! CafÃ©",
    "Bo says \u201cdon\u2019t\u201d\u2026",
    "ﬁve Ａ ４K\u3000owls\xa0at\u200bthe lake",
    "Cafe\u0301 f\u00fcr F\u00fcchse",
    "一只红色的狐狸 Pip 在湖边走。",
    "🦊🦊 fox 🦉",
    "狼 meets ж and ☃",
    "owls<br/>sit <here>",
    "back\\slash and\x00null\x1b[31m red",
    "x" * 40,
)
# What transformers takes for special tokens, or for the mark of a space that is there already; a
# SentencePiece model reads them letter by letter.
QUOTED = ("Bo <extra_id_0> Pip", "<extra_id_7>", "Pip </s> Bo", "▁Pip ▁▁Bo")


def train() -> bytes:
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        for before, after in RULES:
            code = lambda text: " ".join(f"{ord(c):X}" for c in text)
            rules.write(f"{code(before)}\t{code(after)}\n")
        rules.flush()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=120,
            hard_vocab_limit=False, character_coverage=1.0, normalization_rule_tsv=rules.name,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
        )  # fmt: skip
    return model.getvalue()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "spiece.model").write_bytes(train())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(FOLDER / "spiece.model", folder)
        made = T5TokenizerFast.from_pretrained(folder, extra_ids=EXTRA_IDS)
        made.save_pretrained(Path(folder) / "saved")
        shutil.copy(Path(folder) / "saved" / "tokenizer.json", FOLDER)
    cases = [[s, prompt_clean(s), made(prompt_clean(s)).input_ids] for s in (*STRINGS, *QUOTED)]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (FOLDER / "ids.json").write_text(f'{{"size": {len(made)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
