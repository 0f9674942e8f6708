"""The table of what can be exported, as the README has it: python -m exporters.support"""

from collections.abc import Iterator

from .families import FAMILIES


def table() -> str:
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "| models | pipeline classes | tasks | forms | tested |"
    yield "|---|---|---|---|---|"
    for family in dict.fromkeys(FAMILIES.values()):
        classes = [name.removesuffix("Pipeline") for name, other in FAMILIES.items() if other is family]
        tasks = ", ".join(task.replace("_", "-") for task in family.all_tasks)
        yield f"| {family.title} | {', '.join(classes)} | {tasks} | {', '.join(family.forms)} | {family.tested} |"


if __name__ == "__main__":
    print(table())
