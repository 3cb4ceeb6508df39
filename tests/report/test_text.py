from hypothesis import given
from hypothesis import strategies as st

from mendiff.report.text import NO_BREAK, font, wrapped


@given(st.text(max_size=60), st.integers(40, 300))
def test_text_fits_its_width_whatever_the_words(text: str, width: int) -> None:
    for line in wrapped(text, width, 12):
        assert font(12).getlength(line) <= width or len(line) <= 2


def test_figures_stay_with_their_signs_when_text_is_wrapped() -> None:
    lines = wrapped("score 0.615 > 0.4 stops, back to t = 451", 60, 11)
    assert f">{NO_BREAK}0.4" in lines
    assert f"t{NO_BREAK}={NO_BREAK}451" in lines
