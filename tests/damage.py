"""Ways in which a checkpoint folder can be damaged, or can fit nothing; each takes the folder and changes it."""

import json

from safetensors.torch import load_file, save_file


def edit(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def shards(folder):
    """Split model.safetensors in two with an index, as the hub has it."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {k: file for file, keys in parts.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model-00002-of-00002.safetensors"


def missing_shard(folder):
    shards(folder).unlink()


def cut_shard(folder):
    path = shards(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def foreign_tokenizer(folder):
    text = (folder / "tokenizer.json").read_text().replace("<|image_pad|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    text = (folder / "tokenizer_config.json").read_text().replace("<|image_pad|>", "<|other|>")
    (folder / "tokenizer_config.json").write_text(text)


def text_template(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}")


def blind_template(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")
