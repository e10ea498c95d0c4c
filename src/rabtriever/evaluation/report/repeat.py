"""The page's last section: what a reader needs to get the same figures."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from rabtriever.evaluation.report.markup import Child, element, section


def repeat(report: dict[str, Any]) -> Element:
    """Returns the section on command, data, models, what was cut, versions and hardware."""
    data, hardware = report["data"], report["hardware"]
    machine = [
        hardware["cpu"],
        f"{hardware['cores']} core{'s' * (hardware['cores'] > 1)}",
        f"{hardware['memory_gb']} GiB" if hardware["memory_gb"] else None,
        {True: "AVX-512 VNNI", False: "no AVX-512 VNNI", None: None}[hardware["vnni"]],
        hardware["gpu"],
        hardware["system"],
    ]
    rows: dict[str, list[Child]] = {
        "Command": [element("code", report["command"])] if report["command"] else [],
        "Data": [
            f"{data['name']}, {data['split']}: {data['documents']:,} documents, {data['labels']:,} judgements; ",
            "SHA-256 ",
            element("code", data["sha256"]),
        ],
        **{name.capitalize(): _model(one) for name, one in report["models"].items()},
        "Seed": [f"{report['seed']}, of the draw of queries, the intervals and the tests"],
        "Hardware": [", ".join(part for part in machine if part)],
        "Versions": [", ".join(f"{name} {found}" for name, found in report["versions"].items())],
        "Time": [f"{report['started']}, {report['seconds']:g} seconds"],
        "Files": ["report.json: all figures of this page; queries.csv: each query; runs/: TREC runs"],
    }
    terms = [
        part for name, content in rows.items() if content for part in (element("dt", name), element("dd", content))
    ]
    return section("How to repeat it", element("dl", terms))


def _model(found: dict[str, Any]) -> list[Child]:
    computed = f", computed by {found['numerics']}" if "numerics" in found else ""
    content: list[Child] = [
        found["name"] or "unnamed",
        computed,
        "; fingerprint ",
        element("code", found["fingerprint"]),
    ]
    if "prompt_hash" in found:
        content += ["; prompt SHA-256 ", element("code", found["prompt_hash"])]
    if "truncated" in found:
        cut = found["truncated"]
        content.append(
            f"; too long for it, and cut: {cut['queries']:,} queries, {cut['documents']:,} documents"
            if cut
            else "; how many texts it cuts is not known"
        )
    return content
