"""The table of rewrites: regular expressions over one sentence, in the order in which they are tried.

A table of long patterns, one a line; the lines are as long as they are.
"""
# ruff: noqa: E501

from __future__ import annotations

import re
from collections.abc import Callable

from mmpo.radiology.lexicon import Lexicon

Rewrite = Callable[[str], "str | None"]
"""The new text, or None where nothing of the sentence can be kept."""

_DEGREE = (
    r"(?:(?:slight(?:ly)?|mild(?:ly)?|minimal(?:ly)?|moderate(?:ly)?|marked(?:ly)?|significant(?:ly)?|interval(?:ly)?|"
    r"overall|relatively|grossly|essentially|largely|somewhat|now|further|gradual(?:ly)?|substantial(?:ly)?|"
    r"unremarkably|otherwise|still|since|probabl[ey]|perhaps|also|clearly|known|fairly|not significantly|"
    r"not substantially|only) ){0,3}"
)
_CHANGE_WORD = (
    r"(?:unchanged|stable|unaltered|similar|the same|static|increas(?:ed|ing)|decreas(?:ed|ing)|improv(?:ed|ing)|"
    r"worse(?:ned|ning)?|progress(?:ed|ing|ive)|persist(?:ent|ing)|resolving|larger|smaller|bigger|better|diminished|"
    r"(?:more|less) (?:prominent|conspicuous|extensive|dense|confluent|pronounced|apparent|severe)|new|not changed)"
)
_REFERENCE = (
    r"(?:(?:as |when |is |are )?compar(?:ed|ison) (?:to|with|made)|in comparison (?:to|with)|relative to|since|from|than|"
    r"as (?:on|in|of|was)|(?:as )?(?:seen|noted|described|identified|demonstrated|visualized|shown|reported) on)"
)


def build_rewrites(lexicon: Lexicon) -> list[Rewrite]:
    """The table of rewrites over one sentence. Each returns the new text, or None where nothing of it can be kept."""
    when = r"(?:\w+ ){0,3}?(?:{PRIORADJ}|{EXAM}|{DATE}|before|previously|then)\b(?:'s)?(?: (?:{EXAM}|of|from|on|dated|at|the|in|chest|{DATE}|radiograph\w*|available|same day))*"
    present = (
        r"\b(?:opacit\w+|opacification\w*|effusions?|edema|atelectasis|consolidations?|pneumothora\w+|pneumonias?|cardiomegaly|"
        r"infiltrates?|nodules?|mass(?:es)?|lesions?|congestion|fractures?|granulomas?|scarring|thickening|plaques?|emphysema|"
        r"adenopathy|lymphadenopathy|hernia|collapse|enlargement|elevation|blunting|fibrosis|disease|pneumomediastinum|"
        r"calcifications?|clips|wires|hematoma|air|fluid|deformit\w+|engorgement|widening|tortuosity|deviation|shift|bronchiectasis|process)\b"
    )
    device = r"\b(?:{DEVICE}|clips|wires|tracheostomy|hardware)\b"

    def compiled(pattern: str) -> re.Pattern[str]:
        for name, words in (("{WHEN}", when), ("{PRESENT}", present), ("{OBJECT}", rf"(?:{present}|{device})")):
            pattern = pattern.replace(name, words)
        for name in ("EXAM", "DATE", "MONTH", "NUMBER", "PRIORADJ", "DEVICE", "PLACED"):
            for _ in range(3):
                pattern = pattern.replace("{" + name + "}", lexicon.classes[name])
        for _ in range(3):
            for name in ("MONTH", "NUMBER"):
                pattern = pattern.replace("{" + name + "}", lexicon.classes[name])
        return re.compile(pattern, re.IGNORECASE)

    def sub(pattern: str, replacement: str) -> Rewrite:
        regex = compiled(pattern)
        return lambda text: regex.sub(replacement, text)

    def drop(pattern: str) -> Rewrite:
        regex = compiled(pattern)
        return lambda text: None if regex.search(text) else text

    def be(pattern: str, template: str) -> Rewrite:
        """Fill `template` with {x} (first group) and the fitting form of "to be"."""
        regex = compiled(pattern)

        def apply(text: str) -> str | None:
            match = regex.fullmatch(text.rstrip(". "))
            if match is None:
                return text
            groups = match.groupdict(default="")
            subject = _AMOUNT.sub("", groups["x"].strip())
            subject = (
                re.sub(r"^(?:the |any )", "", subject, flags=re.IGNORECASE) if template.startswith("No ") else subject
            )
            if template.startswith("No ") and subject[1:2].islower():
                subject = subject[0].lower() + subject[1:]
            return " ".join(template.format(x=subject, be=_be(subject), tail=groups.get("tail", "").strip()).split())

        return apply

    lead = r"^(?:again,|once again,|(?:as |when )?compar(?:ed|ing) (?:to|with)|in comparison (?:to|with)|comparison is made (?:to|with)|relative to|since|in the (?:interval|interim)\b|as (?:seen|noted|described|demonstrated|before)\b|{WHEN} (?:dated )?)"
    return [
        sub(lead + r"[^,]{0,140}, ?", ""),
        sub(r"^again,? (?=there)", ""),
        # numbers of before
        sub(r",? ?\(?(?:previously|formerly|prior|compared (?:to|with)|was|versus|earlier)(?: \w+){0,2} \d[\d. x]* ?(?:cm|mm)?(?: (?:on|in) {WHEN})?\)?", ""),
        sub(r",? (?:following|after|since|post) (?:the |a )?(?:[\w-]+ ){0,3}(?:removal|insertion|placement|drainage|thoracentesis|diuresis|extubation|intubation|bronchoscopy)(?=[,.;]|$)", ""),
        drop(r"\b(?:lower|higher|better|wider|narrower) than (?:on |in |at )?(?:the )?{WHEN}"),
        # resolved
        be(r"no longer (?:seen|visible|present|identified|evident) (?:is|are) (?P<x>.*{PRESENT}.*)", "No {x}"),
        be(r"(?P<x>(?!.*\b(?:but|and)\b).*{PRESENT}[^,]*?),? (?:(?:has|have) (?:now |since |completely |fully |interval(?:ly)? )*(?:resolved|cleared|disappeared)|(?:is|are) no longer (?:seen|visible|present|identified|evident|visualized|apparent|appreciated)|(?:is|are) (?:now )?resolved)(?: (?:since|from|on|after) .*)?", "No {x}"),
        # nothing can be told
        drop(r"^(?:(?:there|lungs?) (?:is|are|has been|have been) )?(?:no|little|without|minimal)(?: \w+){0,3} (?:change|alteration|difference)s?\b(?! (?:of position))(?=[^,]*$)"),
        drop(r"\bno (?:\w+ )?new\b|\bwithout new\b|\bnothing new\b|no (?:evidence of |definite )?(?:interval|recurrent|residual|increas\w+|worsening)"),
        drop(r"\b(?:{DEVICE})s?\b[^,;]*\b(?:has|have|had) (?:\w+ )?been (?:\w+ )?(?:removed|withdrawn$|taken out|discontinued|pulled$)|removal of"),
        be(r"(?P<x>.*{PRESENT}[^,]*?) (?:has|have) (?:\w+ )?(?:increased|worsened|progressed|developed|enlarged|grown|decreased|diminished|re-?accumulated|become (?:more|less) \w+|partially (?:cleared|resolved))(?: in (?:size|extent|severity|number))?(?P<tail>(?: (?:at|in|on) (?:the )?(?:left|right|both|lung)[^,]*)?)(?:,? (?:since|from|compared|following) .*)?", "{x} {be} present {tail}"),
        # trailing references
        sub(r",? ?(?:but |and |which (?:is|are|has|have) |that (?:is|are) )?(?:now )?" + _DEGREE + _CHANGE_WORD + r"?(?: in (?:appearance|size|position|extent|severity|degree|number))?,? ?" + _REFERENCE + r" (?:(?:the|a|an|that|those|prior) )?(?:on |of |in )?{WHEN}(?=[,.;]|$)", ""),
        sub(r",? ?(?:as|than|from|like|similar to|since|to) (?:before|previously|prior|earlier|yesterday)(?: (?:seen|noted|described))?(?=[,.; ]|$)", ""),
        sub(r",? ?(?:with|without|with no)(?: \w+){0,3} (?:interval )?(?:change|progression|improvement|worsening)s?(?: (?:in|since|from|compared) [^,]*)?(?=[,.;]|$)", ""),
        sub(r", (?:which (?:is|are|has|have) )?(?:but |and )?" + _DEGREE + _CHANGE_WORD + r"(?: (?:to|or) " + _DEGREE + _CHANGE_WORD + r")?(?: (?:in (?:appearance|size|position|extent)|since [^,]*|from [^,]*|compared [^,]*))?(?=[,.;]|$)", ""),
        drop(r"\b(?:has|have|had|appears?|looks?)[ .]*$"),
        be(r"(?P<x>(?!there).*{OBJECT}[^,]*?) (?:is|are|was|were)", "{x} {be} present"),
        drop(r"\b(?:is|are|was|were)[ .]*$"),
        # again
        be(r"(?:once )?again (?:seen|noted|demonstrated|identified|visualized|present|evident|redemonstrated) (?:is|are) (?P<x>.*)", "{x} {be} seen"),
        be(r"(?:re-?demonstrated|re-?identified) (?:is|are) (?P<x>.*)", "{x} {be} seen"),
        be(r"(?:there is |there has been )?(?:re-?demonstration|re-?identification) of (?P<x>.*)", "{x} {be} seen"),
        sub(r"\b(?:re-?demonstrated|re-?identified|re-?visuali[sz]ed)\b(?=[,.;]| (?:in|at|on|over|with|along)|$)", "seen"),
        sub(r"\b(?:re-?demonstrated|re-?identified|re-?visuali[sz]ed) ", ""),
        sub(r"\b(?:once )?again,? ", ""),
        sub(r",? ?\b(?:once )?again(?=[,.;]|$)", ""),
        # devices
        be(r"(?:there (?:has|have) been |there is |status post )?(?:interval |new |interim ){0,2}(?:placement|insertion|introduction) of (?P<x>(?:a |an |the )?.*{OBJECT}.*)", "{x} {be} present"),
        sub(r"\b(?:has|have) (?:\w+ )?been (?:\w+ )?{PLACED}(?: (?:slightly|further|by [\d. ]+ ?cm))? and (?:is|are) (?:now )?", "is "),
        sub(r"\b(?:has|have) (?:\w+ )?been (?:\w+ )?{PLACED}(?: (?:slightly|further|by [\d. ]+ ?cm))? and (?:now )?(?=\w+s\b)", ""),
        be(r"(?P<x>.*{DEVICE}) (?:has|have) (?:\w+ )?been (?:\w+ )?(?:placed|inserted|introduced|added)(?P<tail>.*)", "{x} {be} present {tail}"),
        # course
        be(r"(?:there (?:has been|is|are) )?" + _DEGREE + r"(?:increased?|increasing|worsening|worsened|progression|progress|re-?accumulation|development|decreased?|reduction|growth|redistribution)(?: in| of)(?: the)?(?: size| extent| severity)?(?: of)?(?: the| a| an)? (?P<x>.*{PRESENT}.*)", "{x} {be} present"),
        be(r"(?P<x>(?!there).*{PRESENT}[^,]*?) (?:is|are|appears?|remains?) " + _DEGREE + r"(?:increased|decreased|larger|smaller|bigger|worse|(?:more|less) \w+|progressing|worsening|increasing|decreasing|resolving|improving|improved|new)(?: in (?:size|extent))?", "{x} {be} present"),
        # a state that goes on
        sub(r"\b(?:has |have )?remain(?:s|ed)? (?=(?:unchanged|stable|similar))", "is "),
        be(r"(?P<x>(?!there).*(?:{OBJECT})[^,]*?) (?:is|are|appears?|has been|have been) " + _DEGREE + r"(?:in )?(?:unchanged|stable|unaltered|similar|static)(?: in)?(?: (?:position|appearance|size|extent|configuration|alignment|positioning|number|placement|severity))?(?: (?:and|to|or) " + _DEGREE + _CHANGE_WORD + r")?", "{x} {be} present"),
        drop(r"^[^,]*\b(?:is|are|appears?|have|has) " + _DEGREE + r"(?:in )?(?:unchanged|stable|unaltered|similar|static|not changed|changed)(?= (?:in|since|from|compared|when|as|to|over|with|on|at)\b|[.,; ]*$)[^,]*$"),
        sub(r"(?:,? and| but) " + _DEGREE + r"(?:unchanged|stable|unaltered)(?: in \w+)?(?=[,.;]|$)", ""),
        sub(r"\b(?:is|are) " + _DEGREE + r"(?:unchanged|stable|unaltered)(?: in \w+)? and ", "is "),
        sub(r"\bremains (?:to be )?(?=\w)", "is "),
        sub(r"\bremained (?=\w)", "was "),
        sub(r"\bremain (?=\w)", "are "),
        sub(r"\bcontinues to be ", "is "),
        sub(r"\bcontinue to be ", "are "),
        sub(r"\bthere continues? to be ", "there is "),
        be(r"(?P<x>.*?) persists?(?P<tail>(?: (?:at|in|on|within|over|along|with) .*)?)", "{x} {be} present {tail}"),
        # attributes
        sub(r"\b(?:previously|formerly) (?:seen|noted|described|identified|demonstrated|visualized|present|questioned|reported|placed|known) ", ""),
        sub(r"\b" + _DEGREE + r"(?:unchanged|stable|persistent|persisting|recurrent|residual|ongoing|continued|resolving|evolving|new|newly (?:apparent|developed|seen|placed|noted)|newly|increasing|decreasing|enlarging|worsening|worsened|progressive|interval) (?=(?:and )?[\w-]+)", ""),
        sub(r"\b(?:increased|decreased|diminished) (?=(?:[\w-]+ ){0,3}{PRESENT})", ""),
        sub(r"\bthere (?:is|are) now\b", "there is"),
        sub(r"\b(?:is|are) now (?=\w)", "is "),
        sub(r",? ?\bnow\b", ""),
        sub(r"\bin (?:an? |the )?(?:unchanged|stable|similar|same) (?:position|location|alignment)(?=[,.;]|$)", "in place"),
        sub(r",? ?\b(?:in the interval|in the interim|in the meantime|intervally)\b", ""),
    ]  # fmt: skip


_AMOUNT = re.compile(r"^(?:the )?(?:degree|extent|severity|size|amount|appearance) of (?:the )?", re.IGNORECASE)
_PLURAL = re.compile(r"(?:s|ices|ae|oci)$")


def _be(subject: str) -> str:
    """ "is" or "are" for a noun phrase, by the head before its first preposition."""
    head = re.split(
        r" (?:in|at|of|with|over|on|within|along|overlying|from|projecting|terminating|involving|and the) ", subject
    )[0]
    if re.search(r"\b(?:and|both|two|three|multiple|several|bilateral \w+s)\b", head, re.IGNORECASE):
        return "are"
    word = head.split()[-1].lower().strip(",.") if head.split() else ""
    singular = word.endswith(("ss", "is", "us", "thorax", "ous"))
    return "are" if _PLURAL.search(word) and not singular else "is"
