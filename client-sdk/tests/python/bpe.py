"""Byte-level BPE as llama.cpp splits and merges, written out, from a GGUF file's metadata.

Splits are those of `llm_tokenizer_bpe` in llama.cpp's `llama-vocab.cpp`, one after the other.
"""

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
}


def byte_letters():
    """GPT-2's letter for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(256 + i) for i, b in enumerate(others)}}


LETTERS = byte_letters()


def pieces(text, pattern):
    """What matches and what lies between."""
    at, out = 0, []
    for match in regex.finditer(pattern, text):
        out += [text[at : match.start()], match.group()]
        at = match.end()
    return [piece for piece in [*out, text[at:]] if piece]


def encode(text, pre, tokens, merges, special):
    """The ids of `text`; each of `special` is one token wherever it stands."""
    ids = {token: at for at, token in enumerate(tokens)}
    ranks = {merge: at for at, merge in enumerate(merges)}
    named = "|".join(map(regex.escape, sorted(special, key=len, reverse=True)))
    out = []
    for part in pieces(text, named) if named else [text]:
        if part in special:
            out.append(ids[part])
            continue
        words = [part]
        for split in SPLITS[pre]:
            words = [piece for word in words for piece in pieces(word, split)]
        for word in words:
            letters = [LETTERS[b] for b in word.encode()]
            if pre == "llama-bpe" and "".join(letters) in ids:
                out.append(ids["".join(letters)])
                continue
            while len(letters) > 1:
                rank = lambda i: ranks.get(" ".join(letters[i : i + 2]), len(ranks))
                best = min(range(len(letters) - 1), key=rank)
                if rank(best) == len(ranks):
                    break
                letters[best : best + 2] = ["".join(letters[best : best + 2])]
            out += [ids[letter] for letter in letters]
    return out
