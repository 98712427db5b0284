"""Characters of formulas and the commands of LaTeX for them.

Source: Unicode's mathematical operators and the commands of amsmath that KaTeX and MathJax know.
"""

_NAMES = """α alpha β beta γ gamma δ delta ε varepsilon ϵ epsilon ζ zeta η eta θ theta ϑ vartheta ι iota κ kappa
λ lambda μ mu ν nu ξ xi π pi ϖ varpi ρ rho ϱ varrho σ sigma ς varsigma τ tau υ upsilon φ varphi ϕ phi χ chi ψ psi
ω omega Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Υ Upsilon Φ Phi Ψ Psi Ω Omega ∂ partial ∇ nabla ∞ infty
∅ emptyset ℏ hbar ℓ ell ℜ Re ℑ Im ℵ aleph ı imath ȷ jmath ∀ forall ∃ exists ∄ nexists ¬ neg ⊤ top ⊥ bot ∠ angle
△ triangle □ square ⋆ star ★ bigstar ♯ sharp ♭ flat ♮ natural × times ÷ div · cdot ⋅ cdot ∗ ast ∘ circ ∙ bullet ± pm
∓ mp ⊕ oplus ⊖ ominus ⊗ otimes ⊙ odot ∧ wedge ∨ vee ∩ cap ∪ cup ⊎ uplus ∖ setminus ⋄ diamond † dagger ‡ ddagger ≤ le
≥ ge ≠ ne ≪ ll ≫ gg ≡ equiv ≈ approx ≅ cong ∼ sim ≃ simeq ∝ propto ≺ prec ≻ succ ⪯ preceq ⪰ succeq ⊂ subset ⊃ supset
⊆ subseteq ⊇ supseteq ∈ in ∉ notin ∋ ni ⊢ vdash ⊨ models ∤ nmid ∥ parallel ∦ nparallel ≔ coloneqq ≜ triangleq
≲ lesssim ≳ gtrsim ⊊ subsetneq ⋈ bowtie ∴ therefore ∵ because ← leftarrow → to ↔ leftrightarrow ⇐ Leftarrow
⇒ Rightarrow ⇔ Leftrightarrow ↑ uparrow ↓ downarrow ↦ mapsto ⟶ longrightarrow ⟵ longleftarrow ⟹ implies ⟸ impliedby
⟺ iff ⟼ longmapsto ↪ hookrightarrow ↩ hookleftarrow ⇌ rightleftharpoons ↗ nearrow ↘ searrow ↙ swarrow ↖ nwarrow
⇑ Uparrow ⇓ Downarrow ⇝ rightsquigarrow ⇀ rightharpoonup … ldots ⋯ cdots ⋮ vdots ⋱ ddots ∑ sum ∏ prod ∐ coprod ∫ int
∬ iint ∭ iiint ∮ oint ⋃ bigcup ⋂ bigcap ⋁ bigvee ⋀ bigwedge ⨁ bigoplus ⨂ bigotimes ⨀ bigodot ⟨ langle ⟩ rangle
⌊ lfloor ⌋ rfloor ⌈ lceil ⌉ rceil ‖ Vert √ surd ° degree"""
_PAIRS = _NAMES.split()
COMMANDS = {character: f"\\{name}" for character, name in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}
"""The command for a character."""
COMMANDS |= {
    **{"−": "-", "′": "'", "″": "''", "‴": "'''", "∣": "|", "~": "\\sim"},
    **{"ℝ": "\\mathbb{R}", "ℕ": "\\mathbb{N}", "ℤ": "\\mathbb{Z}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}"},
    **{"ℙ": "\\mathbb{P}", "ℍ": "\\mathbb{H}"},
    **{"\xa0": "\\ ", "\u2009": "\\,", "\u2003": "\\quad "},
    **dict.fromkeys("\u2061\u2062\u2063\u2064\u200b", ""),  # function application, invisible times, and the like
    **{"{": "\\{", "}": "\\}", "\\": "\\backslash"},
    **{character: f"\\{character}" for character in "%#&_$"},
}

_FUNCTION_NAMES = """sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth exp log ln lg lim limsup liminf
sup inf max min det dim ker deg gcd arg hom Pr mod"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
"""Words that are commands of their own."""
VARIANTS = {
    "bold": "mathbf",
    "double-struck": "mathbb",
    "script": "mathcal",
    "fraktur": "mathfrak",
    "sans-serif": "mathsf",
    "monospace": "mathtt",
    "bold-italic": "boldsymbol",
}
"""The command for a `mathvariant`."""
STYLES = (
    ("BOLD ITALIC", "boldsymbol"),
    ("BOLD", "mathbf"),
    ("DOUBLE-STRUCK", "mathbb"),
    ("SCRIPT", "mathcal"),
    ("FRAKTUR", "mathfrak"),
    ("SANS-SERIF", "mathsf"),
    ("MONOSPACE", "mathtt"),
)
"""(part of a character's name in Unicode, command)"""
LIMITS = frozenset("∑∏∐⋃⋂⋁⋀⨁⨂⨀∫∬∭∮")
"""Operators whose limits are scripts."""
WORD_LIMITS = frozenset({"lim", "limsup", "liminf", "sup", "inf", "max", "min", "det", "gcd", "Pr"})
"""Functions whose limits are scripts."""
OVER = {
    **dict.fromkeys(("^", "ˆ", "\u0302"), "hat"),
    **dict.fromkeys("‾―", "overline"),
    **dict.fromkeys(("→", "\u20d7"), "vec"),
    **dict.fromkeys("~˜∼", "tilde"),
    **dict.fromkeys("˙.", "dot"),
    **{"¯": "bar", "¨": "ddot", "⏞": "overbrace", "ˇ": "check", "˘": "breve"},
}
"""The command for a character that stands above."""
UNDER = {**dict.fromkeys(("_", "\u0332", "‾", "―"), "underline"), "⏟": "underbrace"}
"""The command for a character that stands below."""
MATRICES = {
    ("(", ")"): "pmatrix",
    ("[", "]"): "bmatrix",
    ("|", "|"): "vmatrix",
    ("{", "}"): "Bmatrix",
    ("‖", "‖"): "Vmatrix",
    ("{", ""): "cases",
}
"""The environment for a table between these fences."""
SPACED = frozenset("=+−<>≤≥≠≈≡→⇒⇔∈×⋅⟹⟺±∼∝")
"""Operators that are written with spaces around them."""
