"""The page of the fidelity benchmark, from made-up measurements."""

import re

import pytest
from fidelity_page import kib, page, summary


def results(scale: float, *, task: bool) -> dict:
    """Measurements of one pair: ERE takes `scale` times as much as erestore."""

    def point(method: str, setting: float, total: float, error: float) -> dict:
        found = {"method": method, "setting": setting, "total": total, "error": error}
        return found | ({"kl": error / 10, "agreement": 0.9, "accuracy": 0.8} if task else {})

    methods = ("ours-frobenius", "ours") if task else ("ours-frobenius",)
    ours = [point(method, error, 100_000 / error, error) for method in methods for error in (0.5, 0.05, 0.005)]
    ere = [
        point("ere", rank, scale * 100_000 / error, error) | {"payload": scale * 90_000 / error, "stored": 5e6}
        for rank, error in ((8, 0.4), (16, 0.1))
    ]
    others = [point(method, 0, 2e6, 0.1) for method in ("bitq", "bitq-rows", "sign", "sign-rows")]
    return {
        "new_bytes": 0,
        "original_bytes": 1 << 24,
        "ours": ours,
        "yardsticks": [*ere, *others],
    }


@pytest.fixture
def measured() -> dict:
    return {
        "rxnfp-ft": results(3, task=False),
        "minilm-section": results(2, task=True),
        "silero-v6": results(1, task=False),
    }


def row(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_summary_leaves_the_control_out(measured):
    by_error, by_kl = summary(measured).split("At equal KL:")
    assert row(by_error, "all but the control")[1:3] == ["1.80 / 2.25", "2.00 / 2.50"]
    assert row(by_error, "silero-v6 | 8")[2:] == ["0.4", "220", "244", "4,883", "244", "0.90", "1.00", "20.00"]
    assert row(by_kl, "all but the control")[2] == "2.00 / 2.00"
    assert "rxnfp" not in by_kl


def test_page(measured):
    text = page(measured)
    assert re.findall(r"\((fidelity-\w+\.svg)\)", text) == ["fidelity-error.svg", "fidelity-kl.svg"]
    marks = text[text.index("Marks and reach") : text.index("tasks say")]
    assert row(marks, "error | paper")[2:] == ["1.6 / 2.2", "2.00 / 2.50", "0 of 4"]
    assert row(marks, "KL | paper")[2:] == ["2.5", "2.00 / 2.00", "2 of 2"]
    (section,) = re.findall(r"### minilm-section\n(.*)", text, re.DOTALL)
    assert section.count("\n| ") == 2 + 3 + 6
    assert row(section, "ERE | 16")[2:] == ["1,953", "0.1", "0.01", "0.900", "0.800"]


def test_page_without_tasks():
    text = page({"rxnfp-ft": results(2, task=False)})
    assert not any(word in text for word in ("equal KL", "tasks say"))


@pytest.mark.parametrize("size, text", [(None, "-"), (512, "0.5"), (10 * 1024, "10"), (3 << 20, "3,072")])
def test_sizes(size, text):
    assert kib(size) == text
