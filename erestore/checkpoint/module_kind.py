"""Where in a model a tensor is, read from its name: how deep, and what kind of module.

Names are those of the common libraries (transformers, timm, torchvision, torch's own modules). One name says only so much:
whether ``encoder`` tells anything depends on whether there is a decoder, and a stage's third block is the tenth of the
model if nine come before. :func:`places` looks at all names of a model; :func:`place` at one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace

KINDS = (
    "word embeddings",
    "position embeddings",
    "token type embeddings",
    "patch embeddings",
    "special tokens",
    "embeddings",
    "attention query",
    "attention key",
    "attention value",
    "attention qkv",
    "attention kv",
    "attention output",
    "attention position",
    "attention other",
    "cross-attention query",
    "cross-attention key",
    "cross-attention value",
    "cross-attention qkv",
    "cross-attention kv",
    "cross-attention output",
    "cross-attention position",
    "cross-attention other",
    "router",
    "expert gate",
    "expert up",
    "expert gate and up",
    "expert down",
    "MLP gate",
    "MLP up",
    "MLP gate and up",
    "MLP down",
    "layer scale",
    "norm",
    "pooler",
    "head",
)
"""Kinds that are known, in the order in which a model has them; any other is the path of the module inside its layer."""

_LISTS = re.compile(r"(?:.*_)?(?:layers?|blocks?|resblocks|stages?|groups?)|h|features")
"""Modules that hold the layers by number."""
_INNER = re.compile(r"(?:\w*_)?layers|blocks?|resblocks")
"""Modules of a stage that hold its layers."""
_NESTED = re.compile(r"blocks|stages|features|network|\D*_?(?:layer|stage|block)s?\d+")
"""Of those, the ones whose layers may be one level below: ``blocks.2.1``, ``layer1.0``."""
_NUMBERED = re.compile(r"(?:encoder_layer_|layer_?|stage_?|block_?)([0-9]{1,6})")
"""A module whose name holds its number."""
_SEQUENCES = re.compile(
    r".*(?:mlp|ffn?|feed_?forward|classifier|heads?|fc|proj(?:ection|ector)?|sample|experts?|score)\d*|stem"
)
"""Modules whose numbers are steps within one layer, or experts beside each other."""
_PARAMETERS = re.compile(
    r"weight|bias|running_mean|running_var|num_batches_tracked|(?:weight|bias)_[gv]|parametrizations|original\d"
)
_DIGITS = 6
_SUFFIX = re.compile(r"_(?:weight|bias)$")
_RECURRENT = re.compile(r"(?:weight|bias)_(ih|hh|hr)(?:_l([0-9]{1,6}))?(_reverse)?")
_STACK = re.compile(
    r"(?:^|_)(?P<what>vision|visual|image|text|language|audio|speech)(?:_(?P<part>encoder|decoder))?(?:_|$)"
    r"|(?:^|_)(?P<coder>encoder|decoder)$"
)

_Q, _K, _V = (rf"(?:^|[._])(?:to_|w)?{letter}(?:_proj|_lin|_a|_b|_global)*(?:$|[._])" for letter in "qkv")
_ATTENTION = (
    (r"relative|position|rel_pos|seg_embed|(?:^|[._])r(?:_[rsw])?$", "position"),
    (r"w?qkv|query_key_value|c_attn|in_proj|w_pack", "qkv"),
    (r"(?:^|[._])kv(?:$|[._])|kv_proj|key_value", "kv"),
    (rf"query|{_Q}", "query"),
    (rf"key|{_K}", "key"),
    (rf"value|{_V}", "value"),
    (
        r"(?:^|[._])(?:o|out|wo|to_out|output|c_proj|proj|o_proj|out_proj|out_lin|dense|projection|linear_out)(?:$|[._])",
        "output",
    ),
)
_MLP = (
    (r"gate_up|gate_and_up|w12|(?:^|\.)mlp\.wi$", "gate and up"),
    (r"gate_proj|(?:^|[._])w1$|wi_0|linear_v$|fc1_g", "gate"),
    (
        r"up_proj|intermediate|fc1|c_fc|lin(?:ear)?_?1$|(?:^|[._])wi(?:_1)?$|w3$|h_to_4h|fc_in|pwconv1|layer_1$|ffn$",
        "up",
    ),
    (
        r"down_proj|(?:^|[._])output(?:$|[._]dense)|fc2|c_proj|lin(?:ear)?_?2$|(?:^|[._])wo$|w2$|4h_to_h|fc_out|pwconv2|layer_2$",
        "down",
    ),
)
_OUTSIDE = (
    (
        r"(?:^|\.)(?:lm_|mlm_|classification_)?heads?(?:\.|$|_dist)|classifier|(?:^|\.)cls(?:\.|$)|qa_outputs|score$",
        "head",
    ),
    (
        r"predictions|vocab_(?:transform|projector|layer_norm)|generator_|lm_loss|final_logits|^(?:proj_out|decoder|output|fc)$",
        "head",
    ),
    (r"pooler", "pooler"),
)
_EMBEDDINGS = (
    (r"token_type|segment_embed|embed_segment", "token type embeddings"),
    (r"(?:^|[._])pos(?:it\w*)?(?:_emb|\.|$)|embed_pos|wpe$", "position embeddings"),
    (r"patch", "patch embeddings"),
    (r"(?:cls|class|mask|dist|distillation|register|reg|eos|pad)_(?:token|emb)", "special tokens"),
    (
        r"word_emb|wte$|embed_tokens|(?:^|\.)shared$|tok(?:en)?_emb|embed_in$|embed_out$|(?:^|\.)embeddings?$",
        "word embeddings",
    ),
    (r"embed", "embeddings"),
)
_CROSS = re.compile(r"cross_?att|encdecatt|encoder_att|multihead_attn")
_ATTENDING = re.compile(r"att(?:n|ention)|(?:^|\.)sa(?:\.|$)")
_EXPERT = re.compile(r"experts?(?:\.|$)")
_ROUTER = re.compile(r"router|(?:mlp|moe|ffn|feed_forward)\.gate$")
_NORM = re.compile(r"norm|layrnorm|(?:^|[._])(?:ln|bn|gn)(?:_?(?:\d+|f|pre|post|final))?(?:$|[._])")
_SCALE = re.compile(r"layer_?scale|(?:^|\.)(?:ls|gamma_?|lambda_?)\d?(?:\.|$)")


@dataclass(frozen=True)
class Place:
    """Where a tensor is.

    Attributes
    ----------
    depth : int or None
        Number of its layer, from 0; None outside the layers.
    kind : str
        What its module does: one of :data:`KINDS`, else the path of the module inside its layer. The matrix and the bias
        of a module are of one kind, and so are the experts of a layer.
    stack : str
        Which of several lists of layers it belongs to (``encoder``, ``decoder``, ``vision``, ...).
    """

    depth: int | None
    kind: str
    stack: str = ""

    @property
    def row(self) -> str:
        """The kind, of its stack."""
        return self.kind if self.stack in ("", self.kind) else f"{self.stack} {self.kind}"


def place(name: str) -> Place:
    """Return where one tensor is, from its name alone.

    Parameters
    ----------
    name : str
        ``bert.encoder.layer.3.attention.self.query.weight`` is an attention query at depth 3.

    Returns
    -------
    Place
        The stack is whatever the name says, and the depth of a layer inside a stage is that of the stage.
    """
    path, location = _parsed(name)
    return replace(location, depth=path[0] if path else None)


def places(names: Iterable[str]) -> dict[str, Place]:
    """Return where each tensor of a model is.

    Parameters
    ----------
    names : iterable of str
        All of one model.

    Returns
    -------
    dict[str, Place]
        In the order of the names. Stacks are named only where there are several. Layers inside stages are numbered through;
        what belongs to a stage and to none of its layers is at its first.
    """
    parsed = {name: _parsed(name) for name in names}
    layers: dict[str, set[tuple[int, ...]]] = {}
    for path, location in parsed.values():
        if path:
            layers.setdefault(location.stack, set()).add(path)
    numbered = {stack: sorted(paths) for stack, paths in layers.items()}
    staged = {stack: _inner(paths) for stack, paths in numbered.items() if max(map(len, paths)) > 1}

    def located(path: tuple[int, ...], location: Place) -> Place:
        stack = location.stack if len(layers) > 1 else ""
        if not path:
            return replace(location, stack=stack)
        inner = staged.get(location.stack)
        return replace(location, stack=stack, depth=bisect_left(inner, path) if inner else path[0])

    return {name: located(*parse) for name, parse in parsed.items()}


def kind_order(kind: str) -> int:
    """Return where a kind stands among :data:`KINDS`; unknown ones come before norms, poolers and heads."""
    return KINDS.index(kind) if kind in KINDS else KINDS.index("layer scale")


def _inner(paths: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the paths of layers, without those of stages that have layers."""
    stages = {path[:1] for path in paths if len(path) > 1}
    return [path for path in paths if len(path) > 1 or path not in stages]


def _parsed(name: str) -> tuple[tuple[int, ...], Place]:
    """Return the numbers that lead to a tensor's layer (none, one, or stage and layer), and its place but for the depth."""
    parts = name.split(".")
    if recurrent := _RECURRENT.fullmatch(parts[-1]):
        return _recurrent(parts[:-1], *recurrent.groups())
    while len(parts) > 1 and _PARAMETERS.fullmatch(parts[-1]):
        parts.pop()
    parts[-1] = _SUFFIX.sub("", parts[-1]) or parts[-1]
    path, before, inside = _layer(parts)
    kind = _kind([part for part in inside if not _is_number(part)], outside=not path)
    if not kind or (not path and kind not in KINDS) or kind == "head":
        return path, Place(None, kind or _generic(before) or "layer")  # its path says all
    return path, Place(None, kind, _stack(before if path else parts[:-1]))


def _is_number(part: str) -> bool:
    """Return whether a part of a name numbers something; whoever made a name may have written digits that number nothing."""
    return part.isascii() and part.isdecimal() and len(part) <= _DIGITS


def _recurrent(parts: list[str], side: str, layer: str | None, reverse: str | None) -> tuple[tuple[int, ...], Place]:
    what = {"ih": "input", "hh": "recurrent", "hr": "projection"}[side]
    owner = _generic(parts) or "rnn"
    return ((int(layer),) if layer else ()), Place(None, f"{owner} {what}{' (reverse)' if reverse else ''}")


def _layer(parts: list[str]) -> tuple[tuple[int, ...], list[str], list[str]]:
    """Return the numbers of the layer, and what of the name comes before and after them."""
    fallback = None
    for at, part in enumerate(parts):
        holder = parts[at - 1] if at else ""
        if _is_number(part) and not at and len(parts) > 1:
            continue  # a whole model can be the first step of a sequence
        if number := _NUMBERED.fullmatch(part):
            path = (int(number[1]),)
        elif _is_number(part) and _SEQUENCES.fullmatch(holder):
            return (), [], parts
        elif _is_number(part):
            path = (int(part),)
        else:
            continue
        if any(_SEQUENCES.fullmatch(text) for text in parts[:at]):
            return (), [], parts
        layer = _below(parts, at, path)
        if number or _LISTS.fullmatch(holder):
            return layer
        fallback = fallback or layer
    return fallback or ((), [], parts)


def _below(parts: list[str], at: int, path: tuple[int, ...]) -> tuple[tuple[int, ...], list[str], list[str]]:
    """Go on to the layer inside a stage, if that is what comes next."""
    holder, rest = parts[at] if len(parts[at]) > 3 else parts[at - 1], parts[at + 1 :]
    before = parts[: at + 1]
    if rest and _is_number(rest[0]) and _NESTED.fullmatch(holder):
        return (*path, int(rest[0])), before, rest[1:]
    if len(rest) > 1 and rest[1].isdigit() and _INNER.fullmatch(rest[0]):
        return (*path, int(rest[1])), before, rest[2:]
    return path, before, rest


def _kind(parts: list[str], *, outside: bool) -> str:
    """Return what a module does from the part of its name inside its layer, or all of it `outside` of layers."""
    path = ".".join(parts).lower()
    if outside and (kind := _first(_OUTSIDE, path)):
        return kind
    if _NORM.search(path):
        return "norm"
    if _SCALE.search(path):
        return "layer scale"
    if _ATTENDING.search(path) and not (outside and "embed" in path):
        cross = "cross-" if _CROSS.search(path) else ""
        return f"{cross}attention {_first(_ATTENTION, path.partition('att')[2]) or 'other'}"
    if outside or "embed" in path:
        kind = _first(_EMBEDDINGS, path)
        if kind:
            return kind
    if not outside and _ROUTER.search(path):
        return "router"
    if not outside and (kind := _first(_MLP, path)):
        return f"{'expert' if _EXPERT.search(path) else 'MLP'} {kind}"
    return _generic(parts)


def _first(rules: Iterable[tuple[str, str]], path: str) -> str | None:
    return next((kind for pattern, kind in rules if re.search(pattern, path)), None)


def _generic(parts: list[str]) -> str:
    """Return the path of a module without numbers and without the lists that only hold them."""
    names = [part for part in parts if not _is_number(part)]
    while len(names) > 1 and names[-1] in ("layers", "layer", "blocks", "block"):
        names.pop()
    return ".".join(names)


def _stack(parts: list[str]) -> str:
    """Return which list of layers a path leads to: what it says first of encoder, decoder or modality, else its own name."""
    for part in parts:
        if match := _STACK.search(part):
            what = "vision" if match["what"] == "visual" else match["what"]
            return " ".join(filter(None, (what, match["part"], match["coder"])))
    holder = next((part for part in reversed(parts) if not _is_number(part)), "")
    return holder.removesuffix("_layers").removesuffix("_blocks") if holder.endswith(("_layers", "_blocks")) else ""
