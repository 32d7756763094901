"""Tests of cglo_jax/config/fields.py, and of the comments of config.py that it reads."""

import inspect
import io
import re
import tokenize

from cglo_jax.classifier.methods import METHODS
from cglo_jax.config.defaults import EXPORTS, SIDES, flatten, get_config
from cglo_jax.config.fields import Field, read_comments, read_fields

DEFAULTS = flatten(get_config())
FIELDS = {field.name: field for field in read_fields()}
MADE_UP = '''
def get_config():
    """Not a comment: # 1."""
    # The whole.
    config = ConfigDict()
    config.a = 1  # how many [P 4.3]
    # one line,
    # and # another [A]
    config.b = "# not a comment"
    config.c = 3

    # A part.
    config.part = ConfigDict()
    # above
    config.part.d = (
        1,
        2,
    )  # and beside
    return config.lock()  # of nothing
'''


def test_comments_of_a_made_up_function():
    assert read_comments(MADE_UP) == [
        ("", "The whole."),
        ("a", "how many [P 4.3]"),
        ("b", "one line, and # another [A]"),
        ("c", ""),
        ("part", "A part."),
        ("part.d", "above and beside"),
    ]


def test_every_field_is_there_once_with_its_default():
    names = [field.name for field in read_fields() if field.default is not None]
    assert sorted(names) == sorted(DEFAULTS)
    assert {name: FIELDS[name].default for name in names} == DEFAULTS


def test_sections_come_before_their_fields():
    names = [field.name for field in read_fields()]
    sections = [field.name for field in read_fields() if field.default is None]
    assert sections == ["", *dict.fromkeys(n.split(".")[0] for n in names if "." in n)]
    for section in sections[1:]:
        of_section = [n for n in names if n.startswith(f"{section}.")]
        at = names.index(section) + 1
        assert names[at : at + len(of_section)] == of_section


def test_fields_say_what_their_comments_say_and_keep_the_sources():
    assert FIELDS["latent.dim"] == Field(
        "latent.dim", 128, "d, dimension of the codes z [P 4.3]"
    )
    assert FIELDS["dataset.unlabelled"].meaning == (
        "number of further training images, whose labels are hidden [P Alg. 1]"
    )
    assert FIELDS["weak_classifier.gamma"].meaning == (
        "weight of its cross-entropy in the loss, 0 = none [M: at the authors' .5, whose "
        "doubled softmax makes it some K times weaker, images of CIFAR-100 are hardly "
        "reconstructed]"
    )


def test_no_comment_is_lost_or_told_twice():
    source = inspect.getsource(get_config)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [t.string[2:] for t in tokens if t.type == tokenize.COMMENT]
    assert len(comments) > len(DEFAULTS)
    assert " ".join(field.meaning for field in read_fields()) == " ".join(comments)


def test_every_meaning_can_be_read_by_itself():
    for field in read_fields():
        words = re.sub(r"\[[PAM]\b[^]]*\]", "", field.meaning).split()
        assert len(words) >= 2, field
        assert words[:2] not in (["of", "both"], ["of", "it"], ["as", "above"]), field


def test_meanings_list_what_there_is_to_choose_from():
    listed = re.match(r"any of ([\w, ]+);", FIELDS["classify.methods"].meaning)[1]
    assert sorted(listed.split(", ")) == sorted(METHODS)
    exports = re.findall(r'"(\w+)"', FIELDS["sample.export"].meaning)
    assert exports == list(EXPORTS)
    sides = re.search(r": ([\d, ]+), \.\.\.", FIELDS["dataset.size"].meaning)[1]
    assert [int(side) for side in sides.split(", ")] == list(
        SIDES[: sides.count(",") + 1]
    )
