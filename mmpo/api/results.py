"""The results of build, train, evaluate and convert: paths, numbers and tables. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo.outside import read_rows

if TYPE_CHECKING:
    import pandas

    from mmpo.data.convert import Converted
    from mmpo.eval.statistics.scorecard import Scorecard
    from mmpo.trainers.settings import TrainResult


class _Shown:
    """A record whose table notebooks show."""

    def to_pandas(self) -> pandas.DataFrame:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        table: str = self.to_pandas().to_html(max_rows=20, max_cols=12, index=False, na_rep="")
        return f"<pre>{escape(repr(self))}</pre>{table}"


@dataclass(frozen=True, repr=False)
class Built(_Shown):
    """Preference pairs that a builder made. `run` is the run folder, `pairs` the folder of pairs in it (to train on,
    and for `datasets.load_dataset`), `result` what the builder counted (`RUN/results.json`)."""

    run: Path
    pairs: Path
    result: Mapping[str, Any]

    def __len__(self) -> int:
        """The number of pairs."""
        from mmpo.data.reader import count_pairs

        return count_pairs(self.pairs)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a pair: `id`, `prompt`, `chosen`, `rejected` as text, the number of `images`, and its scores."""
        return _pairs_table(self.pairs)

    def __repr__(self) -> str:
        used, all_ = self.result["images_used"], self.result["images"]
        return f"{len(self)} pairs from {used} of {all_} sources, in {self.pairs}"


@dataclass(frozen=True, repr=False)
class Trained(_Shown):
    """A trained adapter. `run` is the run folder, `adapter` the folder of the adapter, a plain peft adapter;
    `result` is the training's account (`mmpo.trainers.settings.TrainResult`)."""

    run: Path
    adapter: Path
    result: TrainResult

    def to_pandas(self) -> pandas.DataFrame:
        """The metrics as they were logged: a row for each window of training (`loss`, `rewards/margins`, …) and each
        evaluation (`eval_loss`, …), by `step`."""
        import pandas

        return pandas.DataFrame([row for _, row in read_rows(self.run / "train" / "metrics.jsonl")])

    def __repr__(self) -> str:
        result = self.result
        lines = [f"{result.steps} steps on {result.pairs} pairs, {result.seconds:.1f} s"]
        before, after = result.first_eval or {}, result.last_eval or {}
        for key, label in (
            ("eval_rewards/accuracies", "chosen beats rejected, held out"),
            ("eval_loss", "held-out loss"),
        ):
            if key in after:
                lines.append(
                    f"{label}: {before[key]:.3f} -> {after[key]:.3f}" if key in before else f"{label}: {after[key]:.3f}"
                )
        if result.dropped:
            lines.append("pairs not used: " + ", ".join(f"{n} {reason}" for reason, n in result.dropped.items()))
        return "\n".join([*lines, f"adapter: {self.adapter}"])


@dataclass(frozen=True, repr=False)
class Evaluated(_Shown):
    """A finished evaluation. `run` is the run folder, with every answer in `RUN/eval/answers.jsonl`; `scorecard` has
    each metric with its interval, before and after (`mmpo.eval`'s `Scorecard`, also as `RUN/eval/scorecard.md`)."""

    run: Path
    scorecard: Scorecard

    def to_pandas(self) -> pandas.DataFrame:
        """A row a metric: `benchmark`, `split`, `metric`, `better` (higher, lower, neither), `before` and `after` with
        their 95% intervals (`…_low`, `…_high`), `change` with its own, `p`, and `q`: p corrected for the splits.
        Shares are fractions, not percentages. What was not compared, or is undefined, is empty. The rows of `drift` are
        last: their `split` is the benchmark whose answers they are about, empty for the shipped prompts and texts."""
        import pandas

        columns = ["benchmark", "split", "metric", "better", *(
            f"{state}{end}" for state in ("before", "after", "change") for end in ("", "_low", "_high")
        ), "p", "q"]  # fmt: skip
        rows = []
        for row in self.scorecard.rows:
            cells: dict[str, Any] = {name: getattr(row, name) for name in columns[:4]}
            change = row.change if row.after.defined and (row.before is None or row.before.defined) else None
            for state, found in (("before", row.before), ("after", row.after), ("change", change)):
                if found is not None and getattr(found, "defined", True):
                    cells |= {state: found.value, f"{state}_low": found.low, f"{state}_high": found.high}
            if change is not None:
                cells |= {"p": change.p, "q": change.q}
            rows.append(cells)
        drift = self.scorecard.drift
        for check in drift.rows if drift is not None else ():
            cells = {"benchmark": "drift", "split": check.of, "metric": check.metric, "better": "neither", "p": check.p}
            for state in ("before", "after", "change"):
                if (reading := getattr(check, state)) is not None:
                    cells |= {state: reading.value, f"{state}_low": reading.low, f"{state}_high": reading.high}
            rows.append(cells)
        return pandas.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        from io import StringIO

        from mmpo.visible import SafeConsole

        text = StringIO()
        SafeConsole(file=text, width=120, highlight=False).print(self.scorecard)
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


@dataclass(frozen=True, repr=False)
class Conversion(_Shown):
    """A finished conversion. `out` is the folder that was written; `account` says how many rows were read, kept and
    quarantined, and why (`mmpo.data.convert.Converted`, also as `OUT/convert.json`)."""

    out: Path
    account: Converted

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each reason why rows were quarantined: `reason`, `rows`, and the first as `example`. All of them
        are in `OUT/rejects.jsonl`."""
        import pandas

        found = sorted(self.account.quarantined.items(), key=lambda item: -item[1])
        rows = [(reason, count, self.account.examples.get(reason, "")) for reason, count in found]
        return pandas.DataFrame(rows, columns=["reason", "rows", "example"])

    def __repr__(self) -> str:
        one = self.account
        lines = [
            f"{one.source} ({one.source_format}) → {self.out} ({one.out_format})",
            f"{one.rows} rows read, {one.kept} kept, {one.pairs} pairs written",
        ]
        lines += [f"quarantined: {count} {reason}" for reason, count in one.quarantined.items()]
        return "\n".join(lines)


def _pairs_table(folder: Path) -> pandas.DataFrame:
    import pandas

    from mmpo.data.reader import read_pairs

    columns = ["id", "prompt", "chosen", "rejected", "images"]
    rows = [
        {"id": pair.id, "prompt": pair.prompt_text, "chosen": pair.chosen_text, "rejected": pair.rejected_text,
         "images": len(pair.images), **(pair.scores or {})}
        for pair in read_pairs(folder)
    ]  # fmt: skip
    return pandas.DataFrame(rows, columns=None if rows else columns)
