"""Text: from characters to tokens and back, relevance per word, and the pictures of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxlrp
from onnxlrp.data import Sidecar, load, meaning_of
from onnxlrp.data.meaning import ModelInput
from onnxlrp.data.tokens import Vocabulary, Words, tokenizer_of
from onnxlrp.errors import InputError, Unsupported
from onnxlrp.model import read
from onnxlrp.report.gallery import Gallery
from onnxlrp.report.words import WordMap, as_html, as_picture

VOCABULARY = ["[PAD]", "[UNK]", "good", "bad", "film", "not"]
TEXT = "Good film,\n\nnot a bad <one>!"
TOKENS = ModelInput("tokens", np.dtype(np.int64), ("batch", "length"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that adds up one number per word for each of two classes, its vocabulary, sidecar and a text."""
    table = np.array([[0, 0], [0.1, -0.1], [2, -2], [-1, 1], [0.5, 0.25], [-0.5, 0.5]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["embedding"]),
            helper.make_node("ReduceSum", ["embedding", "axis"], ["scores"], keepdims=0),
        ],
        "bag",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "bag.onnx"
    )
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    Sidecar().replace(kind="text", layout="NL", labels=["praise", "complaint"], tokenizer="vocab.txt").write(
        tmp_path / "bag.toml"
    )
    (tmp_path / "review.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_words_keep_their_place_in_the_text() -> None:
    tokens = Vocabulary({word: number for number, word in enumerate(VOCABULARY)})(TEXT)
    assert tokens.ids.tolist() == [2, 4, 5, 1, 3, 1]
    assert [tokens.words[word] for word in range(len(tokens.words))] == ["Good", "film", "not", "a", "bad", "one"]
    assert tokens.words.unknown == ("a", "one")


def test_without_an_unknown_token_unknown_words_are_left_out() -> None:
    tokens = Vocabulary({"good": 0, "film": 1})(TEXT)
    assert tokens.ids.tolist() == [0, 1]
    assert len(tokens.words.unknown) == 4


def test_case_counts_where_the_vocabulary_has_capitals() -> None:
    assert Vocabulary({"Good": 0, "good": 1, "<unk>": 2})("Good good GOOD").ids.tolist() == [0, 1, 2]


def test_punctuation_is_a_word_where_the_vocabulary_has_some() -> None:
    assert Vocabulary({"good": 0, "!": 1, ",": 2})("good, good!").ids.tolist() == [0, 2, 0, 1]


def test_words_between_blanks(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a-b": 7, "[UNK]": 0}))
    assert tokenizer_of("whitespace:vocab.json", tmp_path)("a-b a b").ids.tolist() == [7, 0, 0]
    assert tokenizer_of("vocab.json", tmp_path)("a-b").ids.tolist() == [0, 0]


def test_a_word_gets_the_sum_of_its_pieces() -> None:
    words = Words("unhappy end", ((0, 7), (8, 11)), np.array([-1, 0, 0, 1, -1]))
    per_token = np.array([9.0, 1.0, 0.5, -2.0, 9.0])
    assert words.per_word(per_token).tolist() == [1.5, -2.0]
    assert words.per_word(np.stack([per_token, per_token], axis=1)).tolist() == [3.0, -4.0]


def test_rows_are_filled_up_and_cut() -> None:
    words = Words("a b c", ((0, 1), (2, 3), (4, 5)), np.arange(3))
    assert words.fitted(5).of_token.tolist() == [0, 1, 2, -1, -1]
    assert words.fitted(2).cut == 1


def test_tokenizer_json_groups_pieces(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pieces = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "un": 3, "##happy": 4, "end": 5}
    trained = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trained.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    trained.save(str(tmp_path / "tokenizer.json"))
    tokens = tokenizer_of("tokenizer.json", tmp_path)("unhappy end xyz")
    assert tokens.ids.tolist() == [1, 3, 4, 5, 0, 2]
    assert tokens.words.of_token.tolist() == [-1, 0, 0, 1, 2, -1]
    assert tokens.words[0] == "unhappy"
    assert tokens.words.unknown == ("xyz",)


def test_a_missing_tokenizers_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(Unsupported, match=r"pip install 'onnxlrp\[text\]"):
        tokenizer_of("tokenizer.json", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "no such tokenizer file"),
        ("broken.json", "{", "not a readable tokenizer file"),
        ("numbers.json", '{"a": "b"}', "neither a tokenizer.json nor a vocabulary"),
    ],
)
def test_a_broken_tokenizer_file_is_an_input_error(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        tokenizer_of(name, tmp_path)


# --- files -----------------------------------------------------------------------------------------------------------


def loaded(folder: Path, inputs: list[ModelInput], text: str = TEXT) -> Any:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return load(folder / "text.txt", Sidecar.beside(folder / "bag.onnx"), inputs)


def test_every_token_input_of_a_transformer_is_fed(folder: Path) -> None:
    int64 = np.dtype(np.int64)
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    sample = loaded(folder, [ModelInput(name, int64, ("batch", 8)) for name in names])
    rows = {name: array[0].tolist() for name, array in sample.arrays.items()}
    assert rows["input_ids"] == [2, 4, 5, 1, 3, 1, 0, 0]
    assert rows["attention_mask"] == [1] * 6 + [0] * 2
    assert rows["token_type_ids"] == [0] * 8
    assert rows["position_ids"] == [0, 1, 2, 3, 4, 5, 0, 0]


def test_unknown_and_lost_words_are_counted(folder: Path) -> None:
    sample = loaded(folder, [ModelInput("tokens", np.dtype(np.int64), (1, 4))])
    assert sample.warnings[0] == "2 of the text's words are unknown to the vocabulary ('a', 'one')."
    assert "last 2 words were not read" in sample.warnings[1]


@pytest.mark.parametrize(("text", "said"), [(" \n", "the text is empty"), ("…!", "holds no words")])
def test_empty_text_is_an_input_error(folder: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        loaded(folder, [TOKENS], text)


def test_two_token_inputs_need_an_npz(folder: Path) -> None:
    with pytest.raises(InputError, match=r"\.npz"):
        loaded(folder, [TOKENS, ModelInput("other", np.dtype(np.int64), ("batch", "length"))])


def test_relevance_per_token_is_the_sum_over_its_embedding(folder: Path) -> None:
    explainer = onnxlrp.Explainer(folder / "bag.onnx", providers="cpu")
    sample = loaded(folder, [TOKENS])
    found = explainer.explain(sample.arrays, target="praise").relevance["tokens"]
    np.testing.assert_allclose(found[0], [2, 0.5, -0.5, 0.1, -1, 0.1], rtol=1e-5)


# --- pictures --------------------------------------------------------------------------------------------------------


def word_map() -> WordMap:
    tokens = Vocabulary({word: number for number, word in enumerate(VOCABULARY)})(TEXT)
    return WordMap("review", tokens.words, np.array([2.0, 0.5, -0.5, 0.0, -1.0, 0.0]))


def test_pieces_are_the_text_as_it_was_written() -> None:
    assert "".join(piece for piece, _ in word_map().pieces()) == TEXT


def test_red_speaks_for_and_blue_against() -> None:
    good, _, _, a, bad, _ = word_map().colours
    assert good[0] > good[2]
    assert bad[2] > bad[0]
    assert a == (255, 255, 255)


def test_html_keeps_line_breaks_and_escapes() -> None:
    page = as_html(word_map())
    assert "\n\n" in page.partition("<p>")[2]
    assert "&lt;<mark" in page
    assert "<one>" not in page


def test_a_picture_breaks_lines_where_the_text_does() -> None:
    one, three = (
        as_picture(WordMap("t", Words(text, ((0, 1),), np.arange(1)), np.ones(1))) for text in ("a b", "a\n\nb")
    )
    assert three.shape[0] > one.shape[0]
    long = as_picture(WordMap("t", Words("word " * 200, ((0, 4),), np.arange(1)), np.ones(1)))
    assert long.shape[0] > three.shape[0]
    assert one.shape[1] == long.shape[1]


def test_explain_writes_words_for_a_text(folder: Path) -> None:
    model = read(folder / "bag.onnx")
    explainer = onnxlrp.Explainer(model, providers="cpu", labels=["praise", "complaint"])
    (folder / "empty.txt").write_text("")
    out = folder / "out"
    found = Gallery([explainer], meaning_of(model, {}), out).explain([folder / "review.txt", folder / "empty.txt"])
    (entry,) = found.entries
    assert {"review-lrp-words.html", "review-lrp-words.png"} <= set(entry.files)
    with Image.open(out / "review-lrp-words.png") as picture:
        assert picture.width == 900
    assert "unknown to the vocabulary" in entry.warnings[0]
    written = json.loads((out / "explain.json").read_text())
    assert next(iter(written["inputs"][0]["words"][0])) == "good"
    assert [one.path.name for one in found.skipped] == ["empty.txt"]


@pytest.mark.parametrize("name", ["topics_textcnn", "topics_lstm", "topics_transformer"])
def test_the_sample_models_see_the_shuttle(tmp_path: Path, name: str) -> None:
    """What speaks for sci.space are its words, and hockey speaks against."""
    folder = Path(__file__).parents[1] / "sample_models" / name
    model = read(folder / "model.onnx")
    meaning = meaning_of(model, {})
    explainer = onnxlrp.Explainer(model, providers="cpu", labels=meaning.sidecar.labels)
    (entry,) = Gallery([explainer], meaning, tmp_path).explain([folder / "orbit.txt"]).entries
    assert entry.predictions[0].label == "sci.space"
    words = dict(entry.shown[0].strongest(100))
    assert min(words["shuttle"], words["launch"], words["orbit"]) > 0 > words["hockey"]
    assert "launch" in list(words)[:5] and min(words, key=lambda word: words[word]) == "hockey"


def test_a_text_longer_than_the_model_has_positions_is_cut(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "sample_models" / "topics_transformer"
    model = read(folder / "model.onnx")
    meaning = meaning_of(model, {})
    (tmp_path / "long.txt").write_text("orbit and shuttle " * 80, encoding="utf-8")
    explainer = onnxlrp.Explainer(model, providers="cpu", labels=meaning.sidecar.labels)
    (entry,) = Gallery([explainer], meaning, tmp_path / "out").explain([tmp_path / "long.txt"]).entries
    assert "its last 80 words were not read" in entry.warnings[0]
