"""The measures of a label in words: names, definitions, units, differences, and footnotes for what is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.report.disagreement import number, tolerance_of
from pipeline.report.numbers import MISSING, THIN, count, position, signed, significant, volume

KINDS = ("overlap", "surface", "topology", "thickness")
SIDES = ("reference", "prediction")
ARROW = f"{THIN}→{THIN}"

OVERLAP = {
    "dice": ("Dice", "2TP / (2TP + FP + FN)"),
    "iou": ("IoU", "intersection over union, TP / (TP + FP + FN)"),
    "precision": ("Precision", "TP / (TP + FP)"),
    "recall": ("Recall", "sensitivity, TP / (TP + FN)"),
    "mcc": ("MCC", "Matthews correlation coefficient"),
    "accuracy": ("Accuracy", "(TP + TN) / all voxels"),
    "specificity": ("Specificity", "TN / (TN + FP)"),
    "kappa": ("Cohen’s κ", "agreement beyond chance"),
    "volumetric_similarity": ("Volumetric similarity", "1 − |FN − FP| / (2TP + FP + FN)"),
}
SURFACE = {
    "hausdorff95_um": (
        "HD95 (µm)",
        "95 % of each surface lie no farther from the other: the larger of both directions",
    ),
    "hausdorff95_pooled_um": ("HD95, pooled (µm)", "95 % of all distances of both surfaces together"),
    "hausdorff95_area_weighted_um": (
        "HD95, by area (µm)",
        "95 % of each surface’s area; the larger of both directions",
    ),
    "assd_um": ("ASSD (µm)", "average symmetric surface distance, all distances of both surfaces together"),
    "masd_um": ("MASD (µm)", "mean of the two directed average surface distances"),
    "hausdorff_um": ("Hausdorff (µm)", "largest distance of one surface from the other"),
}
SHARES = {"sennet_score": ("SenNet + HOA score", "NSD by area at tolerance 0, of voxels of side 1")}
TOLERATED = {
    "nsd_voxel": ("NSD, voxels", "normalised surface distance: share of both surfaces’ voxels within the tolerance"),
    "nsd_surfel": ("NSD, area", "normalised surface distance: share of both surfaces’ area within the tolerance"),
}
OTHERS = {
    "multiclass_mcc": "Multi-class MCC",
    "lesion_f1": "lesion F1",
}
"""Names that words alone would not give."""
BOUNDARY = {
    "boundary_iou": ("Boundary IoU", "IoU of the layers of this width below both surfaces"),
    "boundary_iou_erosion": ("Boundary IoU by erosion", "the same with layers that erosions by 3 × 3 × 3 voxels take"),
}
BETTI = (
    ("Pieces b₀", "26-connected components"),
    ("Tunnels b₁", "b₀ + b₂ − χ"),
    ("Cavities b₂", "enclosed background"),
)
THICKNESS = {
    "mean": "Mean (µm)",
    "log_variance": "Log-variance V",
    "log_mean": "Log-mean μ",
    "lognormal_median": "Log-normal median (µm)",
    "lognormal_mode": "Log-normal mode (µm)",
    "standard_deviation": "Standard deviation (µm)",
    "minimum": "Smallest (µm)",
    "maximum": "Largest (µm)",
}
SHORT = {
    "dice", "iou", "precision", "recall", "mcc", "hausdorff95_um", "assd_um", "mean", "quantiles.0.5", "log_variance"
}  # fmt: skip
"""Measures for the top of the page, beside voxels, area, Betti numbers and the distances of distributions."""
SHOWN_ELSEWHERE = {
    *OVERLAP, *SURFACE, *SHARES, *TOLERATED, *BOUNDARY, "reference_voxels", "prediction_voxels", "surface_area_um2",
    "betti", "betti_error", "euler_number", "components", "thickness", "reasons",
}  # fmt: skip

Form = Callable[[Any], str]


class Value(NamedTuple):
    """A number for readers. note : the number of the footnote that says why it is undefined or infinite; 0 for none."""

    text: str
    note: int = 0


class Row(NamedTuple):
    """A measure: one value, or those of the reference, of the prediction and their difference."""

    name: str
    definition: str
    values: list[Value]
    short: bool = False


@dataclass
class Notes:
    """Footnotes: every reason once, in the order of first use.

    reasons : those of the whole comparison, by dotted name.
    """

    reasons: Mapping[str, Any]
    texts: list[str] = field(default_factory=list)

    def number_of(self, reason: str) -> int:
        if reason not in self.texts:
            self.texts.append(reason)
        return self.texts.index(reason) + 1


@dataclass(frozen=True)
class Measures:
    """A label of comparison.json. where : the dotted name under which it stands there, such as labels.3."""

    label: Mapping[str, Any]
    where: str
    voxel_size_um: tuple[float, float, float]
    notes: Notes

    def of_kinds(self) -> dict[str, list[Row]]:
        """All measures of the four kinds, the most telling first; none where a kind was not measured."""
        kinds = (self._overlap(), self._surface(), self._topology(), self._thickness())
        return dict(zip(KINDS, kinds, strict=True))

    def cells(self) -> dict[tuple[str, str], Value]:
        """The few measures of the table of labels, by kind and column."""
        label, cells = self.label, {}
        for kind, names, form in (
            ("overlap", ("dice", "iou"), _ratio),
            ("surface", ("hausdorff95_um", "assd_um"), _um),
        ):
            for name in names:
                if name in label:
                    cells[kind, (OVERLAP | SURFACE)[name][0]] = self._value(name, label[name], form)
        tolerance = tolerance_of(label, max(self.voxel_size_um))
        if tolerance:
            raw = label["nsd_voxel"][tolerance]
            cells["surface", _at("NSD", tolerance)] = self._value(f"nsd_voxel.{tolerance}", raw, _ratio)
        if all(f"{side}_voxels" in label for side in SIDES):
            cells["overlap", "Voxels"] = _change(*(count(label[f"{side}_voxels"]) for side in SIDES))
        betti = label.get("betti")
        if betti and all(betti.get(side) for side in SIDES):
            for (name, _), a, b in zip(BETTI, betti["reference"], betti["prediction"], strict=True):
                cells["topology", name] = _change(count(a), count(b))
        thickness = label.get("thickness")
        if thickness:
            sides = [(thickness.get(side) or {}) for side in SIDES]
            means = [self._value(f"thickness.{n}.mean", s.get("mean"), _um) for n, s in zip(SIDES, sides, strict=True)]
            texts = [value.text for value in means]
            cells["thickness", "Mean (µm)"] = Value(_change(*texts).text, max(value.note for value in means))
            if "wasserstein_um" in thickness:
                raw = thickness["wasserstein_um"]
                cells["thickness", "1-Wasserstein (µm)"] = self._value("thickness.wasserstein_um", raw, _um)
        return cells

    def of_side(self, side: str) -> dict[tuple[str, str], Value]:
        """What tells predictions of one reference apart, by kind and column; of the reference what it has alone."""
        cells = {}
        if side == "prediction":
            apart = {OVERLAP["dice"][0], OVERLAP["iou"][0], SURFACE["hausdorff95_um"][0]}
            cells = {key: v for key, v in self.cells().items() if key[1] in apart or key[1].startswith("NSD")}
        for kind, rows in (("topology", self._topology()), ("thickness", self._thickness()[:1])):
            cells |= {(kind, row.name): row.values[SIDES.index(side)] for row in rows if row.short}
        return cells

    def others(
        self, *, known: Container[str] = SHOWN_ELSEWHERE, single: str = "further measures"
    ) -> dict[str, list[Row]]:
        """Everything but the known (objects, grey values …), by group, under its own names.

        single : what the values that are in no group are called together.
        """
        groups = {name: value for name, value in self.label.items() if name not in known}
        loose = [name for name, value in groups.items() if not isinstance(value, Mapping)]
        others = {single: self.of_names(loose)} if loose else {}
        for name, everything in groups.items():
            if not isinstance(everything, Mapping):
                continue
            group = {key: value for key, value in everything.items() if key != "reasons"}
            sides = {side: group[side] for side in SIDES if isinstance(group.get(side), Mapping)}
            if len(sides) == len(SIDES):
                others[name] = [
                    Row(
                        in_words(key),
                        "",
                        [self._value(f"{name}.{side}.{key}", part.get(key), _anything) for side, part in sides.items()],
                    )
                    for key in {key: None for part in sides.values() for key in part}
                ]
            else:
                others[name] = [
                    Row(in_words(key), "", [self._value(f"{name}.{key}", raw, _anything)]) for key, raw in group.items()
                ]
        return others

    def of_names(self, names: Iterable[str]) -> list[Row]:
        """Single values under their own names."""
        return [Row(in_words(name), "", [self._value(name, self.label[name], _anything)]) for name in names]

    def _overlap(self) -> list[Row]:
        rows = self._single(OVERLAP, _ratio)
        voxels = {side: self.label[f"{side}_voxels"] for side in SIDES if f"{side}_voxels" in self.label}
        if voxels:
            um3 = {side: n * math.prod(self.voxel_size_um) for side, n in voxels.items()}
            rows.append(self._both("voxels", "Voxels", "", voxels, count, short=True))
            rows.append(self._both("volume", "Volume", "voxels times the volume of a voxel", um3, volume))
        return rows

    def _surface(self) -> list[Row]:
        rows = self._single(SURFACE, _um)
        shown = tolerance_of(self.label, max(self.voxel_size_um))
        for kind, (name, definition) in TOLERATED.items():
            for key, raw in _ascending(self.label.get(kind)):
                value = self._value(f"{kind}.{key}", raw, _ratio)
                rows.append(Row(_at(name, key), definition, [value], short=key == shown))
        rows += self._single(SHARES, _ratio)
        for kind, (name, definition) in BOUNDARY.items():
            for key, raw in _ascending(self.label.get(kind)):
                value = self._value(f"{kind}.{key}", raw, _ratio)
                rows.append(Row(f"{name}, {key}{THIN}voxel{'' if float(key) == 1 else 's'}", definition, [value]))
        area = self.label.get("surface_area_um2")
        if area:
            rows.append(self._both("surface_area_um2", "Area", "of the surface elements", area, _area, short=True))
        return rows

    def _topology(self) -> list[Row]:
        rows = []
        betti = self.label.get("betti")
        if betti:
            sides = [betti.get(side) or (None, None, None) for side in SIDES]
            for (name, definition), *pair in zip(BETTI, *sides, strict=True):
                values = dict(zip(SIDES, pair, strict=True))
                rows.append(self._both("betti", name, definition, values, count, short=True))
        euler = self.label.get("euler_number")
        if euler:
            text = "b₀ − b₁ + b₂ of the 26-connected label"
            rows.append(self._both("euler_number", "Euler number χ", text, euler, _signless, short=True))
        for key, pair in _ascending(self.label.get("components")):
            rows.append(self._both(f"components.{key}", f"Components, {key}-connected", "pieces", pair, count))
        return rows

    def _thickness(self) -> list[Row]:
        thickness = self.label.get("thickness")
        if not thickness:
            return []
        sides = [thickness.get(side) or {} for side in SIDES]
        quantiles = [side.get("quantiles") or {} for side in sides]
        median = {"quantiles.0.5": ("Median (µm)", [side.get("0.5") for side in quantiles])}
        named = {name: (text, [side.get(name) for side in sides]) for name, text in THICKNESS.items()}
        named = {"mean": named["mean"], **median, **named}
        for q in sorted({*quantiles[0], *quantiles[1]} - {"0.5"}, key=float):
            named[f"quantiles.{q}"] = (f"{100 * float(q):g}{THIN}% quantile (µm)", [side.get(q) for side in quantiles])
        rows = [
            self._both(
                f"thickness.{name}", text, "", dict(zip(SIDES, values, strict=True)), _um, short=name in SHORT,
                names=[f"thickness.{side}.{name}" for side in SIDES], logarithm=name == "log_mean",
            )
            for name, (text, values) in named.items()
        ]  # fmt: skip
        for name, text, definition, form in (
            ("wasserstein_um", "1-Wasserstein (µm)", "how far apart the distributions are on average", _um),
            ("kolmogorov_smirnov", "Kolmogorov–Smirnov", "largest difference of the cumulative distributions", _ratio),
        ):
            if name in thickness:
                value = self._value(f"thickness.{name}", thickness[name], form)
                rows.append(Row(text, definition, [value], short=True))
        return rows

    def _single(self, spec: Mapping[str, tuple[str, str]], form: Form) -> list[Row]:
        return [
            Row(text, definition, [self._value(name, self.label[name], form)], short=name in SHORT)
            for name, (text, definition) in spec.items()
            if name in self.label
        ]

    def _both(
        self, name: str, text: str, definition: str, pair: Mapping[str, Any], form: Form, *, short: bool = False,
        names: list[str] | None = None, logarithm: bool = False,
    ) -> Row:  # fmt: skip
        """Reference, prediction, and their difference: of whole numbers and logarithms itself, of others in percent."""
        raw = [pair.get(side) for side in SIDES]
        paths = names or [f"{name}.{side}" for side in SIDES]
        values = [self._value(path, value, form) for path, value in zip(paths, raw, strict=True)]
        return Row(text, definition, [*values, Value(_difference(*raw, logarithm=logarithm))], short)

    def _value(self, name: str, raw: Any, form: Form) -> Value:
        if raw is not None and raw != "inf":
            return Value(form(raw))
        group, _, rest = name.partition(".")
        part = self.label.get(group)
        reason = (
            _reason(self.label.get("reasons") or {}, name)
            or _reason(part.get("reasons") or {} if isinstance(part, Mapping) else {}, rest)
            or _reason(self.notes.reasons, f"{self.where}.{name}")
        )
        if reason is None:
            reason = "not defined here" if raw is None else "infinite"
        return Value(MISSING if raw is None else "∞", self.notes.number_of(reason))


def in_words(name: str) -> str:
    """A name of comparison.json for readers."""
    known = (OVERLAP | SURFACE).get(name)
    if known or name in OTHERS:
        return known[0] if known else OTHERS[name]
    words = name.replace("_", " ")
    for ending, unit in ((" um3", "µm³"), (" um2", "µm²"), (" um", "µm"), (" mm3", "mm³")):
        if words.endswith(ending):
            return f"{words.removesuffix(ending)} ({unit})"
    return words


def _reason(reasons: Mapping[str, Any], name: str) -> str | None:
    """The reason of a name, or of the group that it belongs to: nsd_voxel.25, then nsd_voxel."""
    while name:
        found = reasons.get(name)
        if isinstance(found, str):
            return found
        name = name.rpartition(".")[0]
    return None


def _ascending(values: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """By the number that the key is."""
    return sorted((values or {}).items(), key=lambda item: float(item[0]))


def _difference(reference: Any, prediction: Any, *, logarithm: bool) -> str:
    a, b = number(reference), number(prediction)
    if not (math.isfinite(a) and math.isfinite(b)):
        return MISSING
    if a == b:
        return "="
    if isinstance(reference, int) and isinstance(prediction, int):
        return ("+" if b > a else "−") + count(abs(prediction - reference))
    if logarithm:
        return signed(b - a, 3)
    return f"{signed(100 * (b - a) / abs(a), 1)}{THIN}%" if a else MISSING


def _change(reference: str, prediction: str) -> Value:
    return Value(reference if reference == prediction else f"{reference}{ARROW}{prediction}")


def _at(name: str, tolerance_um: str) -> str:
    return f"{name} ≤{THIN}{position(float(tolerance_um)) if float(tolerance_um) else '0'}{THIN}µm"


def _ratio(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def _um(value: float) -> str:
    return significant(value)


def _area(um2: float) -> str:
    return f"{significant(um2 / 1e6)}{THIN}mm²" if um2 >= 1e5 else f"{significant(um2)}{THIN}µm²"


def _signless(value: int) -> str:
    return count(value).replace("-", "−")


def _anything(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _signless(value)
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{in_words(key)} {_anything(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(part, (list, tuple)) for part in value)
        return (" – " if nested else ", ").join(map(_anything, value))
    return MISSING if value is None else str(value)
