"""What pages and models say in place of an answer: error messages, refusals, talk about being a model, lectures."""

import re

_ERRORS = (
    r"too many requests in 1 hour\. try again later\.?",
    r"network error\.?",
    r"networkerror when attempting to fetch resource\.?",
    r"something went wrong(?:\.|,)? ?(?:if this issue persists please contact us .*|please try .*)?",
    r"an error occurred\. (?:either the engine you requested|if this issue persists).*",
    r"there was an error generating a response\.?",
    r"hmm\.* ?something seems to have gone wrong\.?.*",
    r"the server (?:had an error while processing your request|is currently overloaded).*",
    r"(?:chatgpt is|we're|we’re) (?:at capacity|experiencing exceptionally high demand).*",
    r"you(?:'|’)ve reached (?:our|the|your) (?:current )?(?:usage cap|usage limit|limit of messages).*",
    r"you(?:'|’)ve hit the (?:free|plus|team|pro) plan limit for .*",
    r"rate limit reached for (?:default-)?(?:gpt|text|code|o\d)[\w.-]*(?: in organization .*|\.)?",
    r"you exceeded your current quota, please check your plan and billing details\.?.*",
    r"our systems are (?:a bit|quite) busy at the moment.*",
    r"unusual activity has been detected from your device\. try again later\..*",
    r"only one message at a time\. please allow any other responses to complete.*",
    r"the message you submitted was too long.*",
    r"error in (?:body|input|message) stream\.?",
    r"(?:request timed out|failed to fetch|gateway time-?out|internal server error)\.?",
    r"unable to load conversation.*",
    r"conversation (?:key )?not found\.?(?: try refreshing the page\.)?",
    r"oops(?:!|,) an error (?:has )?occurred[.!]?.*",
    r"this (?:content|prompt) may violate our (?:content|usage) polic(?:y|ies)\.?(?: .*)?",
)
"""Messages that chat pages of 2022 to 2025 showed in the answer's place; each must be the whole last paragraph."""
_ERROR = re.compile(r"(?:\(!\)|!|[(\[]|⚠\ufe0f?)?\s*(?:" + "|".join(_ERRORS) + r")[)\]]?", re.IGNORECASE | re.DOTALL)
_LONGEST_ERROR = 300
"""Characters; a longer last paragraph is somebody's text."""

_AI = r"(?:ai|artificial intelligence)"
_MODEL = rf"(?:{_AI} )?(?:large )?(?:language|chat|text) (?:ai )?model(?: ai)?|{_AI} model"
_SELF = (
    rf"(?:an? |the )?(?:{_MODEL}|{_AI}(?: (?:assistant|system|chatbot|program))?|"
    r"(?:virtual|digital) assistant|chatbot|computer program|machine learning model)"
)
"""What a model calls itself."""
_MADE = r"(?: (?:developed|created|trained|designed|built|made|programmed)\b[^.,\n]{0,60})?"
_I_AM = r"\bi(?: am|'m|’m) (?:just |only |merely |simply )?"
_CANNOT = r"(?:cannot|can not|can't|can’t|could not|couldn't|am not able to|am unable to)"
_NOT = rf"(?:{_CANNOT}|do not|don't|don’t|won't|won’t|will not|would not|am not|lack)"
_SORRY = (
    r"(?:(?:i(?:'|’| a)m )?(?:really |very |so |truly |deeply )?sorry[,.]? ?(?:but )?|(?:my )?apologies,? (?:but )?|"
    r"i (?:sincerely )?apologi[sz]e(?: for [^.,\n]{1,60})?[,.]? ?(?:but )?|unfortunately,? |regrettably,? )?"
)
_REFUSAL = re.compile(
    rf"\W*{_SORRY}(?:"
    rf"as {_SELF}{_MADE},? (?:i|it) (?:\w+ )?{_NOT}\b|"
    rf"{_I_AM}{_SELF}{_MADE},?(?: (?:and|so|which means))?(?: therefore)? (?:i )?{_NOT}\b|"
    rf"i(?: (?:\w+ )?{_CANNOT}|(?:'|’)m (?:not able|unable) to) (?:\w+ )?(?:assist|help(?! but)|provide|offer|fulfil+|"
    r"comply|engage|participate|condone|create|write|generate|answer|discuss|promote|do (?:that|this))\b|"
    r"i (?:must|have to|will have to) (?:respectfully )?decline\b|"
    r"i (?:do not|don't|don’t|won't|won’t|will not) (?:condone|promote|engage in|participate in|be able to)\b|"
    rf"{_I_AM}not (?:programmed|designed|allowed|permitted|comfortable|authori[sz]ed|capable)\b|"
    r"(?:it is|it's|it’s|it would be|this is|that is) (?:not (?:appropriate|ethical|acceptable)|inappropriate|"
    r"unethical) (?:for me )?to\b|"
    r"(?:this|that|your|the) request (?:goes against|violates)\b)",
    re.IGNORECASE,
)
_OPENS = 400
"""Characters in which a refusal has to begin and end."""

_AS_A_MODEL = re.compile(
    rf"\bas an? (?:{_MODEL}){_MADE}[^.\n]{{0,40}}?\b(?:i|my|me)\b|{_I_AM}an? (?:{_MODEL})\b", re.IGNORECASE
)

_OUGHT = (
    r"(?:it is|it's|it’s) (?:\w+ )?(?:important|essential|crucial|vital|necessary|imperative)|"
    r"(?:we|you|everyone|one|people) (?:should|must|ought to)|remember(?: that| to)?|as a (?:responsible )?society|"
    r"i (?:strongly )?(?:urge|encourage|advise) (?:you|everyone)|"
    r"i (?:do not|don't|don’t|cannot|can't|can’t) (?:condone|endorse|support)|"
    r"(?:it|this|that) (?:is|would|would be|is never|are) (?:not |un|in|ir)(?:be )?"
)
_PEOPLE = r"(?:others|everyone|individuals|people|one another|each other)"
_VALUES = (
    r"(?:with|show) (?:\w+ )?(?:respect|kindness|dignity|compassion|empathy)|"
    rf"respect(?:ful)? (?:and|of|to|for|towards?|the) (?:\w+ )?(?:dignity|rights|privacy|feelings|{_PEOPLE})|"
    r"ethical(?:ly)?(?: or| and)? (?:appropriate|acceptable|responsibl[ey]|manner|to do so|guidelines|standards)|"
    r"(?:morally|ethically) (?:wrong|right|acceptable|unacceptable)|"
    r"harmful (?:stereotypes|behaviou?rs?|content|actions)|discriminat(?:e|ion|ory)|"
    r"(?:perpetuat|promot)\w+ (?:\w+ )?(?:stereotypes|violence|hate|harm)|illegal (?:activit|act|behavio)\w+|"
    rf"appropriate to do so|treat (?:all|{_PEOPLE})|regardless of (?:their|race|gender)|well-?being of others"
)
_LECTURE = re.compile(rf"\b(?:{_OUGHT}).{{0,160}}?(?:{_VALUES})")
_SENTENCES = re.compile(r"[.!?\n]+")
_VALUE_HINTS = ("respect", "ethical", "moral", "harm", "discriminat", "stereotyp", "violence", "illegal", "appropriate",
                "treat ", "regardless", "kindness", "dignity", "compassion", "empathy", "of others")  # fmt: skip


def is_error(answer: str) -> bool:
    """Whether an answer is, or ends in, an error message of the page."""
    text = answer.rstrip()
    last = text[-_LONGEST_ERROR - 2 :].rpartition("\n\n")[2].strip()
    return len(last) <= _LONGEST_ERROR and _ERROR.fullmatch(last) is not None


def is_refusal(answer: str) -> bool:
    """Whether an answer opens with a refusal."""
    return _REFUSAL.match(answer[:_OPENS]) is not None


def speaks_as_model(answer: str) -> bool:
    """Whether an answer says somewhere that its author is a language model."""
    return " model" in answer and _AS_A_MODEL.search(answer) is not None


def moralizes(answer: str) -> bool:
    """Whether a sentence of an answer lectures: it tells how one ought to be, and names a value such as respect."""
    folded = answer.lower()
    if not any(hint in folded for hint in _VALUE_HINTS):
        return False
    sentences = (each for each in _SENTENCES.split(folded) if any(hint in each for hint in _VALUE_HINTS))
    return any(_LECTURE.search(each) for each in sentences)
