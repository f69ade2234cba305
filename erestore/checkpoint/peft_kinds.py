"""What becomes of adapters that are not plain LoRA factors: which PEFT can merge, and what to do with the others."""

from __future__ import annotations

from collections.abc import Iterable

from erestore.errors import CheckpointError

MERGE = "Merge it in PEFT (model.merge_and_unload().save_pretrained(directory)), then commit the merged model."
KEEP = "Keep the adapter's folder as it is and load it with PEFT (PeftModel.from_pretrained)."
UNTIE = (
    "If the model ties its embeddings, PEFT's merge changes both ends: first save the base with a head of its own and "
    "tie_word_embeddings set to false. "
)
CONVERT = (
    "Convert it in PEFT: save_pretrained(directory, path_initial_model_for_weight_conversion=...), then commit it."
)

_MERGED_BY_PEFT = (
    "ADALORA ADAMSS BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LN_TUNING LOHA LOKR MISS OFT OSF "
    "PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT"
)
"""Kinds whose merged model computes what the adapter does; tried with peft 0.21.2."""

_MERGED_SETTINGS = frozenset({"kasa_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora"})
"""Settings of LoRA for which the same holds."""

_REPEATED = frozenset({"olora", "pissa"})
"""Initialisations that PEFT repeats when it loads such an adapter, to the same bits."""
_UNREPEATED = frozenset({"corda", "lora_ga", "pissa_niter"})
"""Those that take data, or random numbers, that it does not have then."""

_EMBEDDINGS = frozenset({"embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_in", "embed_out"})

_REASONS = {
    "alora_invocation_tokens": "acts only behind its invocation tokens, so that no one set of weights equals it",
    "layer_replication": "uses layers of the base more than once, each with changes of its own",
}


def refuse_kind(kind: str, targets: Iterable[str]) -> CheckpointError:
    """Return the refusal of an adapter that is not of LoRA."""
    sentence = f"The adapter is of the type {kind[:40]}, not LoRA."
    if kind in _MERGED_BY_PEFT.split():
        return CheckpointError(sentence, hint=_merge_hint(targets))
    return CheckpointError(sentence, hint=f"PEFT cannot merge it into weights. {KEEP}")


def refuse_setting(name: str, targets: Iterable[str]) -> CheckpointError:
    """Return the refusal of a LoRA adapter that uses something beyond plain factors."""
    if name in _REASONS:
        return CheckpointError(f"The adapter uses '{name}': it {_REASONS[name]}.", hint=KEEP)
    sentence = f"The adapter uses '{name}', which cannot be kept as plain LoRA factors."
    return CheckpointError(sentence, hint=_merge_hint(targets) if name in _MERGED_SETTINGS else KEEP)


def refuse_initialisation(name: str, targets: Iterable[str]) -> CheckpointError:
    """Return the refusal of an adapter that was started by changing the base."""
    sentence = f"The adapter was initialised by '{name}', which changes the base."
    kind = "pissa_niter" if name.startswith("pissa_niter") else name.lower()
    if kind in _UNREPEATED:
        return CheckpointError(sentence, hint=CONVERT)
    return CheckpointError(sentence, hint=f"{CONVERT} Or: {_merge_hint(targets)}" if kind in _REPEATED else KEEP)


def _merge_hint(targets: Iterable[str]) -> str:
    names = {target.rpartition(".")[2] for target in targets}
    return UNTIE + MERGE if names & _EMBEDDINGS else MERGE
