# Copyright 2026 The PVC for transformers authors. Licensed under the Apache License, Version 2.0.
"""Writes docs/api.md from the docstrings of what `modeling_pvc` exports: `python docs/write_api.py`, or `make docs`.

The source is read, not imported: `auto_docstring` adds what the installed transformers says of common arguments, which
changes with its version.
"""

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "modeling_pvc"
PAGE = ROOT / "docs" / "api.md"

GROUPS = {
    "Configuration and model": ["configuration_pvc", "modeling_pvc", "modeling_vision_pvc", "temporal_cache_pvc"],
    "Processors": ["processing_pvc", "image_processing_pvc", "video_processing_pvc", "media_pvc"],
    "Inference": ["inference.chat", "inference.stream"],
    "Training": [
        "training.datasets", "training.collators", "training.batch_plan", "training.feature_store",
        "training.arguments", "training.lora", "training.frame_draw", "training.step_starts",
    ],
    "Presets": ["tools.presets"],
}  # fmt: skip
HEADER = """\
# API

Written by `python docs/write_api.py` from the docstrings of what `from modeling_pvc import ...` gives; a test compares
the two. What transformers' base classes add (`from_pretrained`, `save_pretrained`, `generate`, ...) is in its own
documentation.
"""
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Examples):$")
PARAMETER = re.compile(r"^([\w, *]+)( \(.*\))?:(?: (.*))?$")


def exported_names() -> list[str]:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    value = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    return ast.literal_eval(value)


def render() -> str:
    """The page. Raises `ValueError` for an exported name that no module in `GROUPS` defines."""
    names, parts = set(exported_names()), [HEADER]
    for title, modules in GROUPS.items():
        entries = []
        for module in modules:
            path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
            tree = ast.parse(path.read_text())
            for node in tree.body:
                name = _name(node)
                if name in names:
                    names.remove(name)
                    entries.append(_entry(node, tree, path.relative_to(ROOT).as_posix()))
        parts += [f"## {title}\n", *entries]
    if names:
        raise ValueError(f"No module in GROUPS of docs/write_api.py defines {sorted(names)}; add theirs.")
    return "\n".join(parts)


def _name(node: ast.stmt) -> str | None:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return node.name
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
    return None


def _entry(node: ast.stmt, tree: ast.Module, path: str) -> str:
    lines = [f"### `{_name(node)}`\n", f"[{path}](../{path})\n"]
    if isinstance(node, ast.ClassDef):
        lines += _class(node, tree)
    elif isinstance(node, ast.FunctionDef):
        lines += [_signature(node), _markdown(ast.get_docstring(node))]
    else:
        lines += [_markdown(_comment_above(node, (ROOT / path).read_text()))]
    return "\n".join(line for line in lines if line)


def _class(node: ast.ClassDef, tree: ast.Module) -> Iterator[str]:
    methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
    init = methods.get("__init__")
    if init is not None:
        yield _signature(init, node.name)
    yield _markdown(_intro(node))
    yield _markdown(ast.get_docstring(node))
    if init is not None:
        yield _markdown(ast.get_docstring(init))
    for options in (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == f"{node.name}Kwargs"):
        yield _markdown(ast.get_docstring(options))
    for name, method in methods.items():
        if (not name.startswith("_") or name == "__call__") and ast.get_docstring(method):
            yield f"#### `{node.name}.{name}`\n"
            if "property" not in [ast.unparse(decorator) for decorator in method.decorator_list]:
                yield _signature(method)
            yield _markdown(ast.get_docstring(method))


def _intro(node: ast.ClassDef) -> str:
    """`custom_intro` of the class's `auto_docstring`."""
    for decorator in node.decorator_list:
        for keyword in getattr(decorator, "keywords", []):
            if keyword.arg == "custom_intro":
                return ast.literal_eval(keyword.value)
    return ""


def _signature(function: ast.FunctionDef, name: str | None = None) -> str:
    parts = [part for part in _split(ast.unparse(function.args)) if part not in ("self", "cls")]
    parts = [re.sub(r"^(\w+: .*?)=", r"\1 = ", part) for part in parts]
    arguments = ", ".join(parts)
    returns = f" -> {ast.unparse(function.returns)}" if function.returns is not None and name is None else ""
    text = f"{name or function.name}({arguments}){returns}"
    if len(text) > 100:
        arguments = ",\n    ".join(parts)
        text = f"{name or function.name}(\n    {arguments},\n){returns}"
    return f"```python\n{text}\n```\n"


def _split(arguments: str) -> list[str]:
    """Cuts at the commas that stand outside all brackets."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _comment_above(node: ast.stmt, source: str) -> str:
    lines = source.splitlines()[: node.lineno - 1]
    comment = []
    while lines and lines[-1].startswith("# "):
        comment.insert(0, lines.pop()[2:])
    return " ".join(comment)


def _markdown(docstring: str | None) -> str:
    """A docstring with its sections as bold words, its parameters as a list and its examples as code."""
    lines, result = inspect.cleandoc(docstring or "").splitlines(), []
    section, code, fenced = None, False, False
    for line in lines:
        bare = line.strip()
        if bare.startswith("```"):
            fenced = not fenced
        elif not fenced and not code and bare.startswith(">>>"):
            result.append("```python")
            code = True
        elif code and not bare:
            result.append("```")
            code = False
        if fenced or code or bare.startswith("```"):
            result.append(bare if fenced or code else line)
        elif SECTION.match(bare):
            section = bare
            result += [f"**{bare[:-1]}**", *([""] if section[0] != "E" else [])]
        else:
            section = section if line.startswith(" ") or not bare else None
            result.append(_line(line, section))
    return "\n".join([*result, *(["```"] if code else [])]).rstrip() + "\n" if lines else ""


def _line(line: str, section: str | None) -> str:
    bare, indent = line.strip(), len(line) - len(line.lstrip())
    parameter = PARAMETER.match(bare)
    if section is not None and indent == 4 and section != "Returns:" and parameter:
        name, kind, text = parameter.groups()
        return f"- `{name}`{kind or ''}: {text or ''}".rstrip()
    if section is None and indent == 0 and parameter and parameter[2] and not parameter[3]:
        return f"- `{parameter[1]}`{parameter[2]}:"
    return f"  {bare}" if bare and (indent > 4 or (section is None and indent == 4)) else bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what would be written")
    page = render()
    if not parser.parse_args().check:
        PAGE.write_text(page)
    elif PAGE.read_text() != page:
        raise SystemExit("docs/api.md is not current; run `python docs/write_api.py`.")


if __name__ == "__main__":
    main()
