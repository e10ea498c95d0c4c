"""Corpora and systems, and what tables call them."""

from __future__ import annotations

OWN = "metatool clinc150 hwu64 banking77".split()
NEVER = "demo toolalpaca_eval restbench_spotify apibank stabletoolbench callnavi nestful cheatsheets k8s_tools".split()
TRAINED = ("minilm-fine-tuned", "gemma-adapter", "ours-teacher", "ours-labels", "ours-gemma-labels")
UNSEEN = "clinc150 hwu64 banking77 ultratool tldr".split()
SMALL = "ultratool sealtools tldr saycan_next esconv".split()
FACTS = "scifact nfcorpus strategyqa_facts tau2_banking".split()
TITLES = {
    "metatool": "MetaTool",
    "clinc150": "CLINC150",
    "hwu64": "HWU64",
    "banking77": "BANKING77",
    "ultratool": "UltraTool",
    "sealtools": "Seal-Tools",
    "saycan_next": "SayCan next step",
    "esconv": "ESConv",
    "esconv_strategies": "ESConv, with turn and strategy",
    "tldr": "tldr",
    "demo": "built-in",
    "toolalpaca_eval": "ToolAlpaca",
    "restbench_spotify": "Spotify",
    "apibank": "API-Bank",
    "stabletoolbench": "StableToolBench",
    "callnavi": "CallNavi",
    "nestful": "NESTful",
    "cheatsheets": "cheat sheets",
    "k8s_tools": "Kubernetes",
    "nfcorpus": "NFCorpus",
    "scifact": "SciFact",
    "strategyqa_facts": "StrategyQA facts",
    "tau2_banking": "tau2 banking",
}
SYSTEMS = {
    "bm25": "BM25",
    "minilm": "MiniLM (22M)",
    "mpnet": "mpnet (110M)",
    "gemma": "EmbeddingGemma (300M)",
    "minilm-fine-tuned": "MiniLM fine-tuned on the labels",
    "gemma-adapter": "EmbeddingGemma + linear adapter on the labels",
    "ours-teacher": "**ours on MiniLM**, EmbeddingGemma as teacher, no labels",
    "ours-labels": "**ours on MiniLM**, labels",
    "ours-on-fine-tuned": "**ours on the fine-tuned MiniLM**, the same labels",
    "ours-tuned": "**ours on MiniLM**, tuned on the labels (`--tune-encoder full`)",
    "ours-both": "**ours on MiniLM**, labels and teacher",
    "ours-labels-stay": "**ours on MiniLM**, labels, documents stay",
    "ours-gemma-labels": "**ours on EmbeddingGemma**, labels",
    "ours-gemma-labels-stay": "**ours on EmbeddingGemma**, labels, documents stay",
    "tools": "**`tools`**",
    "tools-rerank10": "**`tools`**, the best 10 reranked",
}
