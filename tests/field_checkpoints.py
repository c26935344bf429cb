"""A hub's cache with the checkpoints that RadEval's metrics load: their names and file layouts, tiny random layers.

It is read where HF_HUB_CACHE, XDG_CACHE_HOME and NLTK_DATA name its folders, with the hub switched off.
"""

import json
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]|<>/-'\"?!_"
WORDS = (
    "the heart is normal in size no pleural effusion seen there mild edema of both lungs small nodule left upper lobe"
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{one}" for one in LETTERS), *WORDS.split()]
SIZES = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 600, "num_hidden_layers": 1, "pad_token_id": 0,
    "initializer_range": 0.5,
}  # fmt: skip
ENTITIES = ["O", "B-ABNORMALITY", "I-ABNORMALITY"]
ENCODER = "tiny/radgraph-encoder"


SRR_LABELS = 163
"""55 findings, each present, absent or uncertain, where that was seen."""


def write_hub(root: Path) -> dict[str, str]:
    """Everything below `root`; the environment that makes RadEval read it."""
    torch.manual_seed(0)
    hub = root / "hub"
    labels = {"id2label": dict(enumerate(ENTITIES)), "label2id": {name: i for i, name in enumerate(ENTITIES)}}
    tagger = AutoModelForTokenClassification.from_config(BertConfig(**SIZES, **labels))
    tagger.classifier.weight.data.zero_()
    tagger.classifier.bias.data = torch.tensor([0.0, 1.0, 0.0])  # every piece is an entity
    finder = AutoModelForSequenceClassification.from_config(BertConfig(**SIZES, num_labels=SRR_LABELS))
    finder.classifier.weight.data *= 100  # some labels on, and not the same for all sentences
    for repo, model in {
        "distilbert-base-uncased": AutoModel.from_config(distilbert()),
        "distilroberta-base": AutoModel.from_config(RobertaConfig(**SIZES | {"num_hidden_layers": 5})),
        "Angelakeke/RaTE-NER-Deberta": tagger,
        "FremyCompany/BioLORD-2023-C": AutoModel.from_config(BertConfig(**SIZES)),
        "StanfordAIMI/SRR-BERT-Leaves-with-Statuses": finder,
        "microsoft/BiomedVLP-CXR-BERT-general": AutoModel.from_config(BertConfig(**SIZES)),
        "bert-base-uncased": AutoModel.from_config(BertConfig(**SIZES)),
        "StanfordAIMI/GREEN-radllama2-7b": silent_llama(),
        ENCODER: AutoModel.from_config(BertConfig(**SIZES)),
    }.items():
        folder = snapshot(hub, repo)
        model.save_pretrained(folder)
        write_tokenizer(folder)
    for name in ("radgraph", "radgraph-xl"):
        write_radgraph(root / "cache" / "radgraph" / "0.1.18", name)
    write_chexbert(snapshot(root / "cache" / "chexbert", "StanfordAIMI/RRG_scorers"))
    write_punkt(root / "nltk" / "tokenizers" / "punkt_tab" / "english")
    return {
        "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(root / "cache"),
        "NLTK_DATA": str(root / "nltk"), "HF_DATASETS_CACHE": str(root / "datasets"),
    }  # fmt: skip


def snapshot(cache: Path, repo: str) -> Path:
    """The folder of a repository's files, as the hub's cache lays it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder / "snapshots" / "abc"


def distilbert() -> DistilBertConfig:
    return DistilBertConfig(
        vocab_size=len(VOCABULARY), dim=16, n_heads=2, n_layers=6, hidden_dim=16, max_position_embeddings=600
    )


def silent_llama() -> LlamaForCausalLM:
    """It ends its answer at once, so that a test need not wait for 2,048 tokens."""
    config = LlamaConfig(**SIZES | {"max_position_embeddings": 4096}, eos_token_id=3, bos_token_id=2)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.zero_()
    model.generation_config.eos_token_id = 0  # all logits are equal, and the first is the largest
    return model


def write_tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    special = {"eos_token": "[SEP]", "bos_token": "[CLS]"}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_radgraph(cache: Path, name: str) -> None:
    """The unpacked archive; its weights are written by the test, from the model that RadEval makes of this."""
    folder = cache / name
    (folder / "vocabulary").mkdir(parents=True)
    bert = {"model_name": ENCODER, "max_length": 512}
    feedforward = {"num_layers": 1, "hidden_dims": 8, "dropout": 0.0}
    model = {
        "type": "dygie", "embedder": {"token_embedders": {"bert": bert}}, "initializer": {}, "module_initializer": {},
        "feature_size": 4, "max_span_width": 3, "target_task": "ner", "feedforward_params": feedforward,
        "loss_weights": {"coref": 0.0, "ner": 1.0, "relation": 1.0, "events": 0.0},
        "modules": {
            "ner": {}, "relation": {"spans_per_word": 0.5},
            "coref": {"spans_per_word": 0.3, "max_antecedents": 10, "coref_prop": 0},
            "events": {
                "trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.3,
                "loss_weights": {"trigger": 1.0, "arguments": 1.0},
            },
        },
    }  # fmt: skip
    reader = {"token_indexers": {"bert": bert}, "max_span_width": 3}
    (folder / "config.json").write_text(json.dumps({"dataset_reader": reader, "model": model}))
    words = {"ner": ["", "Observation::definitely present", "Anatomy"], "relation": ["", "located_at", "modify"]}
    for kind, labels in words.items():
        (folder / "vocabulary" / f"{name}__{kind}_labels.txt").write_text("\n".join(labels) + "\n")
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")


def write_chexbert(folder: Path) -> None:
    bert = AutoModel.from_config(BertConfig(**SIZES))
    state = {f"module.bert.{key}": value for key, value in bert.state_dict().items()}
    for i in range(14):
        state[f"module.linear_heads.{i}.weight"] = torch.randn(4 if i < 13 else 2, 16)
        state[f"module.linear_heads.{i}.bias"] = torch.zeros(4 if i < 13 else 2)
    torch.save({"model_state_dict": state}, folder / "chexbert.pth")


def write_punkt(folder: Path) -> None:
    """A sentence splitter that has learnt nothing."""
    folder.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (folder / name).write_text("")
