"""The converter on the shapes that chat pages had from 2023 to 2025."""

import pytest

from vicuna.data.markdown import generic, html_to_markdown

SVG = '<svg viewBox="0 0 24 24" class="h-4 w-4"><path d="M16 4h2"></path></svg>'


def page(body: str) -> str:
    return f'<div class="markdown prose w-full break-words dark:prose-invert light">{body}</div>'


def code_2023(language: str, code: str) -> str:
    return (
        '<pre><div class="bg-black mb-4 rounded-md"><div class="flex items-center text-gray-200 bg-gray-800 px-4 py-2">'
        f'<span class="">{language}</span><button class="flex ml-auto gap-2">{SVG}Copy code</button></div>'
        f'<div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs language-{language}">{code}</code></div>'
        "</div></pre>"
    )


def code_2024(language: str, code: str) -> str:
    return (
        f'<pre class="!overflow-visible"><div class="dark bg-gray-950 rounded-md"><div class="flex items-center px-4">'
        f'<span>{language}</span><span class="" data-state="closed"><button class="flex gap-1">{SVG}Copy code</button>'
        f'</span></div><div class="overflow-y-auto p-4"><code class="!whitespace-pre hljs language-{language}">{code}'
        "</code></div></div></pre>"
    )


def code_2025(language: str, code: str) -> str:
    return (
        f'<pre class="overflow-visible!"><div class="contain-inline-size rounded-2xl relative"><div class="flex h-9">'
        f'{language}</div><div class="sticky top-9"><div class="absolute end-0 bottom-0 flex h-9"><div class="flex">'
        f'<button aria-label="Copy">{SVG}Copy</button><button>{SVG}Edit</button></div></div></div>'
        f'<div class="overflow-y-auto p-4" dir="ltr"><code class="whitespace-pre! language-{language}"><span>{code}'
        "</span></code></div></div></pre>"
    )


@pytest.mark.parametrize("block", [code_2023, code_2024, code_2025])
def test_a_code_block_keeps_its_language_and_every_byte_of_its_code(block):
    code = 'import os\n\n\ndef f(a_b, *c):\n\treturn a_b ** 2 if "`" &lt; c else &amp;x  \n'
    expected = '```python\nimport os\n\n\ndef f(a_b, *c):\n\treturn a_b ** 2 if "`" < c else &x  \n```'
    assert html_to_markdown(page(block("python", code))) == expected


def test_highlighted_code_is_joined_again():
    code = '<span class="hljs-keyword">def</span> <span class="hljs-title function_">f</span>():\n    <b>pass</b>'
    assert html_to_markdown(page(code_2023("python", code))) == "```python\ndef f():\n    pass\n```"


def test_a_code_block_without_a_language_has_none():
    assert html_to_markdown("<pre><code>a  b\n</code></pre>") == "```\na  b\n```"


def test_the_old_form_with_the_label_as_text_gives_language_and_code():
    assert html_to_markdown("<pre>pythonCopy code<code>x = 1\n</code></pre>") == "```python\nx = 1\n```"
    assert html_to_markdown("<pre>pythonCopy codex = 1\n</pre>") == "```python\nx = 1\n```"


def test_code_in_a_button_that_lost_its_end_is_kept_with_its_language():
    html = "<pre><div><span>python</span><button>Copy code<div><code>x = 1\n</code></div></div></pre><p>after</p>"
    assert html_to_markdown(html) == "```python\nx = 1\n```\n\nafter"


def test_text_that_damage_put_before_the_code_stands_above_it_line_by_line():
    html = "<pre><p>One.<br>Two.</p><div><code>x = 1\n</code></div></pre>"
    assert html_to_markdown(html) == "One.\nTwo.\n\n```\nx = 1\n```"


def test_code_that_holds_a_fence_gets_a_longer_one():
    markdown = html_to_markdown("<pre><code>```python\nx\n```\n</code></pre>")
    assert markdown == "````\n```python\nx\n```\n````"


def test_code_with_a_copy_button_in_its_own_text_keeps_it():
    code = "&lt;button&gt;Copy code&lt;/button&gt;\n"
    assert html_to_markdown(page(code_2023("html", code))) == "```html\n<button>Copy code</button>\n```"


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>a <code>b_c*</code> d</p>", "a `b_c*` d"),
        ("<p><code>a`b</code></p>", "``a`b``"),
        ("<p><strong>a</strong>, <em>b</em>, <del>c</del></p>", "**a**, *b*, ~~c~~"),
        ("<p><strong><em>a</em></strong></p>", "**_a_**"),
        ("<p><em><strong>a</strong></em></p>", "***a***"),
        ("<p>x<strong> a </strong>y</p>", "x **a** y"),
        ("<p><strong>Note:</strong>now</p>", "**Note**:now"),
        ("<h2>A <code>b</code></h2><p>c</p>", "## A `b`\n\nc"),
        ("<p>a<br>b</p>", "a  \nb"),
        ("<p>roses are red\nviolets are blue</p>", "roses are red\nviolets are blue"),
        ("<p>a</p><hr><p>b</p>", "a\n\n---\n\nb"),
        ('<p><a href="https://x.org/a_b?c=1&amp;d=2" target="_new">t</a></p>', "[t](https://x.org/a_b?c=1&d=2)"),
        ('<p><a href="https://x.org/a_b">https://x.org/a_b</a></p>', "<https://x.org/a_b>"),
        ('<p><a href="/a b" title="T">t</a></p>', '[t](</a b> "T")'),
        ('<p><img src="i.png" alt="a [b]"></p>', "![a \\[b\\]](i.png)"),
        ("<blockquote><p>a</p><ul><li>b</li></ul></blockquote>", "> a\n>\n> - b"),
        ("<p>H<sub>2</sub>O</p>", "H<sub>2</sub>O"),
        ("<p>&lt;div&gt; &amp;amp; AT&amp;T &nbsp;x</p>", "\\<div> \\&amp; AT&T \xa0x"),
    ],
)
def test_inline_and_simple_blocks(html, markdown):
    assert html_to_markdown(html) == markdown


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3 = 6 and 5 * 4", "snake_case_name and _private", "a < b, i<3", "C# and #1", "It costs $5 - $10",
        "x = [1, 2]",
        "R&D & AT&T", "50% - 60% + 3", "3.5 is more than 3. Yes", "path C:/a/b", "a | b", "f(x) = y!", "~20 km",
        "use `",
        "Hello (world), it's fine: \"quoted\"", "int *p", "1) no", "a\\b",
    ],
)  # fmt: skip
def test_text_that_markdown_reads_right_is_not_escaped(text):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    expected = text if text != "1) no" else "1\\) no"
    assert html_to_markdown(f"<p>{escaped}</p>") == expected


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("*args and **kwargs*", "\\*args and \\*\\*kwargs\\*"),
        ("__init__", "\\_\\_init\\_\\_"),
        ("# no heading", "\\# no heading"),
        ("- no bullet", "\\- no bullet"),
        ("1. no list", "1\\. no list"),
        ("> no quote", "\\> no quote"),
        ("a\n---", "a\n\\---"),
        ("```", "\\`\\`\\`"),
        ("[a](b)", "\\[a](b)"),
        ("List<String> x", "List\\<String> x"),
        ("\\* a", "\\\\* a"),
        ("&copy;", "\\&copy;"),
    ],
)
def test_text_that_markdown_would_misread_is_escaped(text, markdown):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert html_to_markdown(f"<p>{escaped}</p>") == markdown


def test_a_tight_list_stays_tight_and_nests():
    html = "<ul><li>a<ol><li>b</li><li>c</li></ol></li><li>d</li></ul>"
    assert html_to_markdown(html) == "- a\n  1. b\n  2. c\n- d"


def test_a_loose_list_holds_paragraphs_and_code():
    html = "<ol start='3'><li><p>a</p><p>b</p><pre><code>x\n\ny\n</code></pre></li><li><p>c</p></li></ol>"
    assert html_to_markdown(html) == "3. a\n\n   b\n\n   ```\n   x\n\n   y\n   ```\n\n4. c"


def test_two_lists_in_a_row_stay_two():
    assert html_to_markdown("<ul><li>a</li></ul><ul><li>b</li></ul>") == "- a\n\n* b"


def test_a_list_inside_a_list_without_an_item_belongs_to_the_item_above():
    assert html_to_markdown("<ul><li>a</li><ul><li>b</li></ul></ul>") == "- a\n  - b"


def test_a_table_keeps_alignment_and_pipes():
    html = (
        '<table><thead><tr><th style="text-align:right">a</th><th style="text-align: center;">b</th><th>c</th></tr>'
        "</thead><tbody><tr><td>1|2</td><td><code>x|y</code></td><td></td></tr></tbody></table>"
    )
    assert html_to_markdown(html) == "| a | b | c |\n| ---: | :---: | --- |\n| 1\\|2 | `x\\|y` |  |"


def test_cells_that_span_columns_or_rows_leave_the_others_where_they_were():
    html = (
        '<table><tr><th colspan="2">a</th><th>b</th></tr><tr><td rowspan="2">1</td><td>2</td><td>3</td></tr>'
        "<tr><td>4</td><td>5</td></tr></table>"
    )
    assert html_to_markdown(html).splitlines() == [
        "| a |  | b |",
        "| --- | --- | --- |",
        "| 1 | 2 | 3 |",
        "|  | 4 | 5 |",
    ]


@pytest.mark.parametrize(
    "span", ['colspan="99999999"', 'colspan="0"', 'rowspan="-1"', 'colspan="x"', 'rowspan="70000"']
)
def test_a_cell_that_claims_to_span_the_world_spans_the_table(span):
    assert html_to_markdown(f"<table><tr><th {span}>a</th></tr></table>") == "| a |\n| --- |"


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ('<ul><li><input type="checkbox" checked> a</li><li><input type="checkbox">b</li></ul>', "- [x] a\n- [ ] b"),
        ("<details><summary>a</summary><p>b</p></details>", "a\n\nb"),
        ("<dl><dt>a</dt><dd>b</dd><dd>c</dd><dt>d</dt><dd>e</dd></dl>", "a  \nb  \nc\n\nd  \ne"),
        ("<dl><dt>a</dt><dd><p>b</p><p>c</p></dd></dl>", "a\n\nb\n\nc"),
        ("<p><kbd>Esc</kbd> x<sup>2</sup></p>", "<kbd>Esc</kbd> x<sup>2</sup>"),
        ('<p>a<iframe src="x">b</iframe>c</p>', "ac"),
        ('<p><img src="i.png"></p>', "![](i.png)"),
        ('<p><img alt="a" src="data:image/png;base64,AAAA"></p>', "![a](data:image/png)"),
        ('<p>x<img src="data:image/gif;base64,AAAA"></p>', "x"),
        ('<p>a<span data-testid="webpage-citation-pill"><a href="/s">Site<b>+1</b></a></span>.</p>', "a ([Site](/s))."),
        ("<p>a <thumbs-up class='x'><span>b</span></thumbs-up> &lt;c-d&gt;</p>", "a b \\<c-d>"),
        ("<p>a<button><p>b</p>", "a\n\nb"),
    ],
)
def test_less_common_elements(html, markdown):
    assert html_to_markdown(html) == markdown


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<div class='code-box'><div>Python</div><pre><code>x</code></pre></div>", "```python\nx\n```"),
        ("<div><div>sql</div><pre><code class='language-sql'>x</code></pre></div>", "```sql\nx\n```"),
        ("<div class='code-box'><div>Plain text</div><pre><code>x</code></pre></div>", "```\nx\n```"),
        ("<div><div>Python</div><pre><code>x</code></pre></div>", "Python\n\n```\nx\n```"),
        ("<div class='code-box'><p>Python</p><pre><code>x</code></pre></div>", "Python\n\n```\nx\n```"),
        ("<div class='code-box'><div>a.py</div><pre><code class='language-python'>x</code></pre></div>",
         "a.py\n\n```python\nx\n```"),
        ("<p>a</p><code class='!whitespace-pre language-c'>x</code>", "a\n\n```c\nx\n```"),
        ("<pre><code><span class='linenumber'>1</span>x\n<span class='linenumber'>2</span>y</code></pre>",
         "```\nx\ny\n```"),
    ],
)  # fmt: skip
def test_labels_of_code_go_into_the_fence_and_text_stays_text(html, markdown):
    assert html_to_markdown(html) == markdown


def katex(tex: str, display: bool) -> str:
    drawing = (
        '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>E</mi></mrow>'
        f'<annotation encoding="application/x-tex">{tex}</annotation></semantics></math></span>'
        '<span class="katex-html" aria-hidden="true"><span class="base">E</span></span></span>'
    )
    if display:
        return f'<div class="math math-display"><span class="katex-display">{drawing}</span></div>'
    return f'<span class="math math-inline">{drawing}</span>'


def test_formulas_come_back_as_tex():
    html = f"<p>If {katex('a_1 &lt; b^*', False)} then</p>{katex(chr(92) + 'frac{1}{2}', True)}<p>ends.</p>"
    assert html_to_markdown(html) == "If $a_1 < b^*$ then\n\n$$\n\\frac{1}{2}\n$$\n\nends."


def test_a_display_formula_in_a_paragraph_stands_on_its_own():
    formula = katex("x", True).removeprefix('<div class="math math-display">').removesuffix("</div>")
    assert html_to_markdown(f"<p>so {formula} holds</p>") == "so\n\n$$\nx\n$$\n\nholds"


def test_an_unclosed_formula_does_not_swallow_the_text_after_it():
    markdown = html_to_markdown('<p>a <span class="katex">b</p><p>c <b>d</b></p><ul><li>e</li></ul>')
    assert all(word in markdown for word in "abcde")


@pytest.mark.parametrize(
    "html",
    [
        "2 / 3" + page("<p>Hi</p>"),
        f'<div class="text-xs flex"><button>{SVG}</button><span class="grow">2 / 3</span><button>{SVG}</button></div>'
        + page("<p>Hi</p>"),
        page("<p>Hi</p><p>Copy123 chars / 45 words</p>"),
        '<h6 class="sr-only">ChatGPT said:</h6>' + page("<p>Hi</p>"),
        page(f"<p>Hi</p><button>{SVG}Copy</button><iframe src='x'>no</iframe><script>alert(1)</script>"),
    ],
)
def test_the_pages_own_controls_leave_nothing(html):
    assert html_to_markdown(html) == "Hi"


@pytest.mark.parametrize("text", ["1 / 2 cup of sugar is needed.", "2 / 3", "Copy 3 files / 2 folders"])
def test_text_that_looks_like_a_control_stays(text):
    assert html_to_markdown(page(f"<p>{text}</p>")) == text
    assert html_to_markdown(page(text)) == text


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<div class='markdown'><p>one <b>two<ul><li>three", "one two three"),
        ("<p>one</p></div></body></html><p>two</p>three", "one two three"),
        ("</span><p>one</b></div>two", "one two"),
        ("<p>one<!-- react -->two</p><!--", "onetwo"),
        ("<td>one</td><tr><td>two", "one two"),
        ("<li>one<li>two", "one two"),
        ("one < two && three > four", "one < two && three > four"),
        ("<pre><code>one\ntwo", "one two"),
    ],
)
def test_malformed_html_keeps_its_words(html, words):
    markdown = html_to_markdown(html)
    assert [word for word in words.split() if word not in markdown.replace("\\", "")] == []


@pytest.mark.parametrize("depth", [300, 1_500, 5_000])
@pytest.mark.parametrize(
    "tag",
    [
        "<div>",
        "<b>",
        "<ul>",
        "<ul><li>",
        "<table><thead>",
        "<table><tr><td>",
        "<blockquote>",
        "<span class=katex>",
        "<math><mrow>",
    ],
)
def test_nesting_of_any_depth_keeps_the_text(tag, depth):
    markdown = html_to_markdown(tag * depth + "deep</p>after")
    assert "deep" in markdown
    assert "after" in markdown


def test_control_characters_and_half_surrogates_do_not_stop_it():
    assert html_to_markdown("<p>a\x1b[0m b\x0c</p>") == "a\x1b[0m b"
    assert html_to_markdown("<p>a\ud800b</p>") == "a\ufffdb"
    assert html_to_markdown("") == html_to_markdown("<!-- -->") == html_to_markdown("  ") == ""


def test_the_general_converter_agrees_on_an_ordinary_page():
    html = page(
        "<p>Use <code>x_y</code> and <strong>this</strong>:</p>"
        + code_2023("python", "a = 1\n\n\nb = 2\n")
        + "<ul><li>one</li><li>two</li></ul><h3>End</h3>"
        + katex("a^2", True)
    )
    assert generic.html_to_markdown(html) == html_to_markdown(html)


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>one<br>\ntwo</p>", "one  \ntwo"),
        ("<p>one<br>- two<br><br>three<br></p>", "one  \n\\- two\\\n\\\nthree"),
        ("<p><b>one<br></b>two</p>", "**one**  \ntwo"),
        ('<p><a href="u">one<br></a>two</p>', "[one  \n](u)two"),
        ("<ul><li>one\n<ul><li>two</li></ul></li></ul>", "- one\n  - two"),
        ("<p>a <em><strong>b</strong></em> c, <em><strong>d</strong> e</em></p>", "a ***b*** c, ***d** e*"),
        ("<p>Yours,\n[Name]</p>", "Yours,\n[Name]"),
        ("<p>[Name]<code>x</code>: [a]<em>b</em></p>", "[Name]`x`: [a]*b*"),
    ],
)
def test_breaks_and_ends_of_lines_and_nested_emphasis(html, markdown):
    assert html_to_markdown(html) == markdown


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<![if foo barThe average man goes home.</p><p>Next.", "<![if foo barThe average man goes home.\n\nNext."),
        ("a <!-- a comment --> b", "a b"),
        ("a <!-- never closed</p><p>b", "a \\<!-- never closed\n\nb"),
        ("a <!foo bar> b", "a <!foo bar> b"),
        ("a <? b</p><p>c ?> d", "a <? b\n\nc ?> d"),
        ("a <?xml version='1.0'?> b", "a b"),
        ("a <![if mso]>b<![endif]> c", "a b c"),
    ],
)
def test_only_whole_comments_and_declarations_go(inside, expected):
    found = html_to_markdown(f'<div class="markdown prose"><p>{inside}</p></div>')
    assert found.replace("\\<", "<") == expected.replace("\\<", "<")


def test_many_openings_that_never_close_take_no_longer_than_other_text():
    text = "<!-- <? <![CDATA[ <![if <!doctype " * 20_000
    assert html_to_markdown(f"<div class='markdown prose'><p>{text}</p></div>").count("doctype") == 20_000
