"""What some columns of a log are."""

from __future__ import annotations

from dataclasses import dataclass

from tt_jax.schema import Schema


@dataclass(frozen=True)
class Roles:
    """What some columns are. Columns of `Schema` have the names of its features.

    Attributes:
      labels: task -> its label column; labels are numbers, booleans included.
      masks: task -> the column that is 1 where its label counts.
      scenario, time: columns, None without.
      schema: of a recipe, which says which columns are features, and which of them ids.
    """

    labels: dict[str, str]
    masks: dict[str, str]
    scenario: str | None = None
    time: str | None = None
    schema: Schema | None = None

    @staticmethod
    def of(schema: Schema) -> Roles:
        """The roles that a schema gives."""
        labels = {t.name: t.label for t in schema.tasks}
        masks = {t.name: t.mask for t in schema.tasks if t.mask}
        return Roles(labels, masks, schema.scenario, schema.time or None, schema)

    @property
    def named(self) -> list[str]:
        """The columns that must be there."""
        return [*self.labels.values(), *self.masks.values(), *(c for c in (self.scenario, self.time) if c is not None)]

    @property
    def counted(self) -> list[str]:
        """The columns that must be of one kind, since labels are counted by them."""
        return [*self.labels.values(), *self.masks.values(), *([] if self.time is None else [self.time])]

    def is_ids(self, column: str) -> bool:
        """Whether numbers of the column are ids, of which a range means nothing."""
        found = [f for f in self.schema.features if f.name == column] if self.schema else []
        return bool(found) and found[0].is_ids
