"""Formulas of which the page holds MathML only, or another service's markup."""

import pytest

from vicuna.data.markdown import html_to_markdown


def inline(mathml: str) -> str:
    return html_to_markdown(f"<p><math>{mathml}</math></p>")


def row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def mi(name: str) -> str:
    return f"<mi>{name}</mi>"


def mo(sign: str) -> str:
    return f"<mo>{sign}</mo>"


def mn(number: int) -> str:
    return f"<mn>{number}</mn>"


MATRIX = "<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr><mtr><mtd><mi>a</mi></mtd><mtd/></mtr></mtable>"


@pytest.mark.parametrize(
    ("mathml", "tex"),
    [
        (mi("x") + mo("=") + mn(1), "x = 1"),
        (f"<mfrac>{mi('a')}{row(mi('b'), mo('+'), mn(1))}</mfrac>", r"\frac{a}{b + 1}"),
        (f'<mfrac linethickness="0">{mi("n")}{mi("k")}</mfrac>', r"{n \atop k}"),
        (f"<msqrt>{mi('b')}{mo('−')}{mn(4)}</msqrt>", r"\sqrt{b - 4}"),
        (f"<mroot>{mi('x')}{mn(3)}</mroot>", r"\sqrt[3]{x}"),
        (f"<msup>{mi('x')}{mn(2)}</msup>", "x^2"),
        (f"<msup>{mi('x')}{mn(10)}</msup>", "x^{10}"),
        (f"<msup>{mi('x')}{mo('′')}</msup>", "x'"),
        (f"<msub>{mi('x')}{mi('i')}</msub>", "x_i"),
        (f"<msubsup>{mi('x')}{mi('i')}{mn(2)}</msubsup>", "x_i^2"),
        (f"<msup><mrow>{mo('(')}{mi('a')}{mo(')')}</mrow>{mn(2)}</msup>", "{(a)}^2"),
        (f"<munderover>{mo('∑')}{row(mi('i'), mo('='), mn(1))}{mi('n')}</munderover>{mi('i')}", r"\sum_{i = 1}^ni"),
        (f"<munder>{mi('lim')}{row(mi('x'), mo('→'), mn(0))}</munder>", r"\lim_{x \to 0}"),
        (f"<mover>{mi('v')}{mo('→')}</mover>", r"\vec{v}"),
        (f"<mover>{mo('=')}{mi('?')}</mover>", r"\overset{?}{=}"),
        (f"<munder>{mi('x')}{mo('_')}</munder>", r"\underline{x}"),
        (f"<munder><munder>{mi('a')}{mo('⏟')}</munder>{mi('n')}</munder>", r"\underbrace{a}_n"),
        (mo("(") + MATRIX + mo(")"), r"\begin{pmatrix}1 & 2 \\ a & \end{pmatrix}"),
        (mo("{") + MATRIX, r"\begin{cases}1 & 2 \\ a & \end{cases}"),
        (MATRIX, r"\begin{matrix}1 & 2 \\ a & \end{matrix}"),
        (f'<mo fence="true">(</mo>{mi("x")}<mo fence="true">)</mo>', r"\left( x \right)"),
        (f'<mfenced open="[" close="]">{mi("a")}{mi("b")}</mfenced>', r"\left[ a, b \right]"),
        ("<mtext>if </mtext>" + mi("x"), r"\text{if }x"),
        ("<mtext>50%</mtext>", r"\text{50\%}"),
        (mi("x") + '<mspace width="1em"/>' + mi("y"), r"x\quad y"),
        (mi("sin") + mi("θ"), r"\sin\theta"),
        (mi("α") + mi("x"), r"\alpha x"),
        (mi("rank"), r"\operatorname{rank}"),
        ('<mi mathvariant="double-struck">R</mi>', r"\mathbb{R}"),
        ("<mi>𝐱</mi>", r"\mathbf{x}"),
        ("<mn>5</mn><mi>%</mi>", r"5\%"),
        (f"<mmultiscripts>{mi('F')}{mn(1)}<none/><mprescripts/>{mn(2)}<none/></mmultiscripts>", "{}_2F_1"),
        (f"<mstyle displaystyle='true'><mpadded>{mi('x')}</mpadded></mstyle>", "x"),
    ],
)
def test_mathml_becomes_latex(mathml, tex):
    assert inline(mathml) == f"${tex}$"


def test_a_source_that_the_page_holds_comes_before_what_can_be_rebuilt():
    annotation = '<annotation encoding="application/x-tex">x^{2}</annotation>'
    assert inline(f"<semantics><msup>{mi('x')}{mn(2)}</msup>{annotation}</semantics>") == "$x^{2}$"
    assert html_to_markdown(f'<p><math alttext="x^{{2}}">{mi("x")}</math></p>') == "$x^{2}$"


def test_display_mathml_stands_on_its_own():
    assert html_to_markdown(f'<p>so</p><math display="block">{mi("x")}</math>') == "so\n\n$$\nx\n$$"


def test_text_that_got_into_a_formula_stays():
    assert "word" in html_to_markdown(f"<p><math>{mi('x')} word</math></p>")
    assert "word" in html_to_markdown(f"<p><math>{mi('x')}<b>word</b></math></p>")
    assert "word" in html_to_markdown('<p><span class="math-inline" data-math="x">word</span></p>')


@pytest.mark.parametrize(
    "html",
    [
        '<span class="MathJax_Preview"></span><span class="MathJax"><nobr>xy</nobr></span>'
        '<script type="math/tex">a < b</script>',
        '<mjx-container class="MathJax" data-latex="a < b"><mjx-math><mjx-c></mjx-c></mjx-math></mjx-container>',
        f'<mjx-container class="MathJax"><mjx-math></mjx-math><mjx-assistive-mml><math>{mi("a")}<mo>&lt;</mo>{mi("b")}'
        "</math></mjx-assistive-mml></mjx-container>",
        '<span class="math-inline" data-math="a < b"><span class="katex"><i aria-hidden="true">a</i></span></span>',
    ],
)
def test_other_services_formulas_come_back_too(html):
    assert html_to_markdown(f"<p>If {html} holds</p>") == "If $a < b$ holds"


def test_mathjax_display_scripts_stand_on_their_own():
    drawn = '<div class="MathJax_Display"><span class="MathJax">x</span></div>'
    html = f'<p>so</p>{drawn}<script type="math/tex; mode=display">x</script><p>holds</p>'
    assert html_to_markdown(html) == "so\n\n$$\nx\n$$\n\nholds"


@pytest.mark.parametrize(
    "tag", ["mrow", "msup", "mfrac", "munderover", "mtable", "mtr", "mfenced", "mmultiscripts", "mroot"]
)
def test_layouts_with_too_few_children_keep_what_they_have(tag):
    assert inline(f"<{tag}>{mi('x')}</{tag}>").replace("matrix", "").count("x") == 1
    assert inline(f"<{tag}></{tag}>{mi('x')}").replace("matrix", "").count("x") == 1
