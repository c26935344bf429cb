"""Every name of a condition in every frame: stated, denied or doubted, alone or with others, bare or in a sentence.

The fixed templates of findings.py and normal.py know what real reports often say; a name they never doubt is a name the
labeler has never seen doubted. Here names (names.py) and frames are drawn independently, so what a word names and what a
negation or a hedge does to it are learned apart. Deliberate choices:

* A bare name is a finding, also in a list joined by "or": "Pleural effusion or pneumothorax." states both.
* Stating is the default: unknown adjectives and verbs ({strange}) do not change what is claimed, so that only negations
  and hedges, which are few, take a finding back.
* A statement may hold two claims of different kinds ("effusion without pneumothorax"), one in six does.
"""
# ruff: noqa: E501 - a template is one line, however long

import random

from experiments.embedded.language.grammar import SHORT, Statement, expand
from experiments.embedded.language.marks import statement
from experiments.embedded.language.names import (
    AFTER,
    BEFORE,
    NAMES,
    OPACITY_UNLESS_DENIED,
    PREDICATES,
    REGION,
    SIGN_PLACE,
    SIGNS,
)
from experiments.embedded.language.normal import DENIABLE
from mrg_grpo.labels import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

WEIGHTS = {"ECM": 10, "CM": 8, "LO": 13, "LL": 8, "ED": 8, "CO": 10, "PN": 10, "AT": 6, "PX": 10, "PE": 13, "PO": 12, "FX": 7, "SD": 3}  # fmt: skip
"""How often a claim is about each condition; those named in the most ways weigh more."""

CLAIM_SLOTS: dict[str, tuple[str, ...]] = {
    "study": ("[the |this |][radiograph|image|film|study|exam|examination|chest film|chest radiograph|chest x-ray|x-ray|view|frontal view|frontal film|lateral view|projection]", "[the |both |][lungs|lung fields]", "[the |]chest", "[the |][{lr} |]lung", "[the |]{lr} [hemithorax|lung field|chest|side]", "images", "[pa|ap|frontal] and lateral views", "this portable film"),
    "shows": ("[shows|show]", "[demonstrates|demonstrate]", "[reveals|reveal]", "[has|have]", "[contains|contain]", "[exhibits|exhibit]", "[is|are] showing", "[displays|display]", "[depicts|depict]", "showing", "demonstrating", "with", "[is|are] [positive for|notable for|remarkable for|significant for]", "[confirms|confirm]", "[indicates|indicate]", "[documents|document]"),
    "seen": ("seen", "noted", "present", "identified", "visible", "evident", "demonstrated", "visualized", "found", "apparent", "appreciated", "detected", "observed", "shown", "recognized", "depicted", "there", "discovered"),
    "be": ("is", "are", "is", "are", "was", "were", "has been", "is again", "are also", "is now", "appears to be", "remains", ""),
    "where": ("", "", "", "", " on this [exam|study|view|film|projection]", " in the interval", " today", " at this time", " on the frontal view", " {in}", " on the {lr}", " bilaterally", " as before", " [now|again]"),
    "any": ("", "", "", "", "", "any ", "definite ", "convincing ", "radiographic evidence of ", "evidence of ", "signs of ", "findings of ", "focal ", "an ", "clear evidence of ", "significant ", "features of ", "new "),
    "quality": ("", "", "", "", "focal ", "definite ", "large ", "acute ", "significant ", "visible ", "obvious ", "discrete ", "convincing ", "new ", "gross ", "frank ", "overt ", "recognizable ", "clear-cut ", "measurable ", "sizable ", "active ", "evident "),
}  # fmt: skip

STATED = (
    "{x}", "{x}", "{x}", "{x}", "{x}{chg}", "{x}{chg}", "{x}{noted}{chg}",
    "there [is|are|is again|are also|remains|has been|appears to be|was|is now] {x}{where}", "there [is|are] {x}", "there [is|are] {x} {seen}",
    "{x} {be} {seen}{where}", "{x} {seen}{where}", "{x} {be} {seen}{chg}",
    "[there is |there are |][radiographic |radiologic |clear |further |definite |some |][evidence|sign|signs|findings|features|indication] [of|for] {x}",
    "presence of {x}[ {be} {seen}|]", "positive for {x}", "with {x}{where}",
    "{study} {shows} {x}{where}", "{study} {shows} {x}", "lungs are [clear |otherwise clear |well expanded |normally inflated |]with {x}", "lungs [are |]showing {x}",
    "[findings|appearance|appearances|features|changes|picture|pattern|constellation] [are|is|] {surely}{x}", "{x} [persists|persist|predominates|has developed|have developed|has increased|has progressed|has worsened|has appeared|accounts for the findings|occupies the {place}|involves the {place}|{strange} the {place}]",
    "[new|known|interval|persistent|recurrent|residual|newly developed] {x}{where}", "[impression|findings|diagnosis|conclusion]: {x}", "[the |]{place} [is occupied by|is involved by|is the site of|is affected by|harbors|contains] {x}",
    "{x} [on|in] [both sides|either side|today's film|the current study]", "[i see|we see|one sees|one can see|note|notice] {x}", "[development|appearance|progression|worsening|interval development] of {x}",
    "{x} to suggest {strange} {strange}", "{x}, {strange} and {strange}", "{x} with {strange} {strange}", "{strange} {strange} and {x}", "{x} [is|are] {strange}[ {in}|]", "{x} [which|that] [is|are] {strange}",
    "{x} [is|are] [the cause|likely|the likely cause|most likely|probable|the main finding|unchanged|stable|worse|improved|larger|smaller|small|mild|moderate|severe|extensive]{where}",
)  # fmt: skip
DENIED = (
    "no {quality}{x}", "no {quality}{x}", "no {any}{x}", "no {quality}{x} [is |are |]{seen}{where}", "there [is|are] no {any}{x}{where}", "there [is|are] no {quality}{x} {seen}", "without {any}{x}{where}",
    "{x} [is|are] [absent|not {seen}|not {seen}|not {seen}|excluded|ruled out|no longer {seen}|nowhere {seen}|not a feature|not identified with certainty|lacking]{where}", "{x} [is|are] not {seen}", "{x} [not|cannot be] {seen}{where}",
    "{x} [is|are] not [suspected|felt to be present|thought to be present|a concern]", "{x} [have|has] [resolved|cleared|disappeared|completely resolved|been excluded|been ruled out|gone]", "[complete |interval |]resolution of [the |]{x}", "[the |previously seen |previous |]{x} [is|are|has|have] [now |][resolved|cleared|no longer visible]",
    "{study} [is|are] [free of|free from|without|devoid of|clear of|negative for] {any}{x}", "{study} [shows|show|demonstrates|demonstrate|reveals|reveal|has|have|contains|contain] no {any}{x}", "{study} [does not|do not|did not] [show|demonstrate|reveal|contain|exhibit|suggest|indicate] {any}{x}",
    "{study} [fails|fail] to [show|demonstrate|reveal] {any}{x}", "{study} [lacks|lack] {any}{x}", "{study} [excludes|exclude|rules out|rule out] {x}", "{study} [is|are] [clear |]without {any}{x}",
    "neither {study} [shows|contains|has|demonstrates|reveals] {any}{x}", "[nothing|no finding|no findings|no change|no feature|no features|no signs|no abnormality] [to [suggest|indicate|point to|support]|suggestive of|suggesting|suspicious for|typical of|indicative of|in favor of|compatible with] {x}",
    "[absence|lack] of {any}{x}", "[absent|negative for|free of|free from|devoid of] {any}{x}{where}", "[negative|free] of {x}", "{x}: [none|no|absent|negative|not {seen}]", "{x} - [none|absent|negative]",
    "[not {seen}|ruled out|excluded]: {x}", "[i do not see|i see no|we see no|one sees no] {any}{x}", "[no longer|not] any {x}", "not {any}{x}", "nor [is|are] there {any}{x}", "{strange} {strange} without {any}{x}", "{strange} {strange}, no {any}{x}", "no {strange} {x}", "no {x} [is |are |]{strange}",
    "[lungs|bones|pleural spaces|pleura] [are|is] [normal|clear|intact|unremarkable|well expanded], [without|no] {any}{x}", "no [hint|trace|suspicion|suggestion|indication|proof|demonstration|appearance|development] of {x}", "no x-ray [sign|signs|evidence|findings] of {x}", "[exam|study|film|radiograph] negative for {x}",
    "there [is|are] [nothing to suggest|nothing in favor of|a lack of|an absence of] {x}", "there [has|have] been no [interval |]development of {x}", "no {x} {in}", "no {x} on [either side|the {lr}|this film]", "specifically, [there is no|no|without] {any}{x}", "no evidence [to suggest|for] {x}",
)  # fmt: skip
DOUBTED = (
    "possible {x}", "possible {x}{where}", "possible {x} [is |are |]{seen}", "{hedgepre}{x}", "{hedgepre}{x}{where}", "{hedgepre}{x}", "{x}{hedgepost}", "{x}{hedgepost}{where}", "{x}{hedgepost}",
    "there [may|might|could] be {x}{where}", "there [is|are] [possibly|perhaps|potentially|questionably|questionable|possible|equivocal|suspected|a suspicion of|a question of|a possibility of|concern for] {x}",
    "{study} [may|might|could] [show|contain|demonstrate|have|harbor|represent|reflect|indicate|suggest] {x}", "[findings|this|changes|appearances|the appearance|the finding|these findings|the pattern|the density|it] [may|might|could|may well|can] [represent|reflect|indicate|be|be due to|be caused by|relate to|be related to|be secondary to|correspond to|suggest] {x}",
    "{x}?", "? {x}", "{x} (?)", "{x}, [possibly|perhaps|questionable|equivocal|uncertain|not certain|cannot exclude|query]", "query {x}", "question {x}", "[difficult|hard|impossible|not possible] to [exclude|rule out|confirm or exclude|entirely exclude] {x}", "it is [difficult|hard|not possible] to exclude {x}",
    "[the |a |][possibility|presence|existence] of {x} [is raised|cannot be excluded|should be considered|must be considered|has to be considered|is not excluded|remains|is uncertain|is questionable|is possible|is suspected|cannot be ruled out|is questioned|is not ruled out]",
    "[findings|appearance|appearances|this|changes|features] [raise|raises|raising] [the |a |][possibility|question|suspicion|concern] [of|for] {x}", "{x} [is|are] [suspected|suspected but not [certain|proven|confirmed]|in question|questioned|equivocal|uncertain|indeterminate|a consideration|in the differential|conceivable|questionable|possible]{where}",
    "{x} (can not|cannot|could not) be [entirely |completely |definitely |confidently |fully |reliably |][excluded|ruled out|dismissed|discounted]".replace("(", "[").replace(")", "]"), "[cannot|can not|could not|unable to|we cannot|one cannot] [entirely |confidently |completely |definitely |][exclude|rule out|dismiss|confirm or exclude] {x}", "not [excluded|ruled out]: {x}",
    "{x} [is|are] not [entirely |completely |definitely |confidently |fully |][excluded|ruled out|excludable]{where}", "[equivocal|indeterminate|uncertain|inconclusive|questionable] [evidence |findings |signs |]for {x}", "[equivocal|questionable|doubtful|uncertain|inconclusive] {x}", "less likely {x}", "[differential|the differential|differential diagnosis] [includes|would include|is] {x}",
    "{x} would be [difficult|hard] to [exclude|see|rule out]", "[suspicion|suspicious|concern|concerning|worrisome|equivocal|question|questionable] [of|for] {x}", "[suspicion|question|possibility|likelihood] of {x} is raised", "[suspected|presumed possible|potential|conceivable|tentative] {x}", "{x} [may|might|could] [be present|exist|be considered|be seen|also be present|be developing|account for the findings|be the cause|explain the findings|well be present]{where}",
    "{strange} {strange} [may|might|could] [represent|reflect|be|indicate] {x}", "{strange} {strange}{maybe}{x}", "possible {strange} {x}", "[cannot exclude|possible|may represent] [a component of|a degree of|an element of|some|early|developing|superimposed|underlying|small|mild|subtle] {x}", "[if clinically suspected, |]{x} [should be considered|is to be considered|might be considered]", "[apparent|seeming] {x}[ may be technical| is questionable|, possibly artifact| could be artifactual]",
)  # fmt: skip

HEDGEABLE = (
    "{x}", "{any}{x}", "{quality}{x}", "{x} [is |are |]{seen}{where}", "[evidence|signs|findings] of {x}", "positive for {x}", "[lungs|the lungs|lungs are clear|the lungs are clear|lungs otherwise clear] with {x}", "there is {any}{x}", "{study} {shows} {x}", "the lungs are showing {x}",
)  # fmt: skip
"""Statements that one "possible" in front turns into a doubt."""
OUTSIDE = ("adenopathy", "lymphadenopathy", "free air", "pneumoperitoneum", "subcutaneous emphysema", "tracheal deviation", "pneumomediastinum", "hilar adenopathy", "{word} {word}", "xxxx", "bony destruction", "acute osseous abnormality", "other abnormality", "acute disease", "pericardial effusion", "hyperinflation")  # fmt: skip

STATED_OF = ("{s} [is|are|appears|appear|remains|looks|seems|is again|is now] {p}{chg}", "{s} {p}", "{p} {n}", "{s} [is|are] {p}", "[the |][frontal view|radiograph|film] shows {s} to be {p}", "{s}, {p}", "{s} [measures|has become|have become|is noted to be|is felt to be|has been] {p}")  # fmt: skip
DENIED_OF = ("{s} [is|are] not {p}", "{s} [is|are] not {p}", "{s} not {p}", "{s} [does|do] not [appear|look|seem] [to be |]{p}", "{s} [is|are] no longer {p}", "{s} [isn't|aren't] {p}", "{s} [is|are] not [significantly|appreciably|abnormally|visibly|obviously|definitely] {p}", "{s} [is|are] neither {p} nor {strange}", "without {p} {n}", "no {p} {n}")  # fmt: skip
DOUBTED_OF = ("{s} [may|might|could] be {p}{chg}", "{s} [may|might|could] be {p}", "{s} [is|are|appears] [possibly|perhaps|questionably|potentially|conceivably|equivocally] {p}", "possibly {p} {n}", "possible {p} {n}", "[questionable|questionably|perhaps|query] {p} {n}", "{s} [may|might|could] [appear|seem|have become|have been] {p}", "{s} [cannot be excluded as|is suspected to be|may possibly be|might well be] {p}", "{p} {n} cannot be excluded", "[cannot exclude|cannot rule out|difficult to exclude] {p} {n}", "[it is |]unclear whether {s} [is|are] {p}")  # fmt: skip

FRAMES = {POSITIVE: STATED, NEGATIVE: DENIED, UNCERTAIN: DOUBTED}
FRAMES_OF = {POSITIVE: STATED_OF, NEGATIVE: DENIED_OF, UNCERTAIN: DOUBTED_OF}
LINKS = {
    (POSITIVE, NEGATIVE): (" without ", ", no ", " with no ", " but no ", ", without evidence of ", "; no ", " without evidence of ", " and no ", ", without any "),
    (POSITIVE, UNCERTAIN): (" and possible ", " with possible ", ", possible ", " and may represent ", ", cannot exclude ", " and questionable ", " with suspected ", "; possible ", " and perhaps "),
    (UNCERTAIN, NEGATIVE): (" without ", ", no ", " but no ", "; no ", " with no "),
    (NEGATIVE, POSITIVE): (". ", ", but there is ", "; ", " but ", ", however there is ", ". there is "),
    (NEGATIVE, UNCERTAIN): (". possible ", ", but possible ", "; possible ", ", but cannot exclude ", ". cannot exclude ", " but there may be "),
    (UNCERTAIN, POSITIVE): (". ", "; there is ", ". there is "),
}  # fmt: skip
"""Two claims of different kinds in one statement: what goes between them."""
CONFUSABLE = {"LO", "CO", "PN", "AT"}
"""Two of these joined by "or" are alternatives, which CheXbert doubts; they are not stated in that form."""


def strange(rng: random.Random) -> str:
    """A word nobody has met: two to four syllables, so that the pieces of unknown words are no sign of anything."""
    word = "".join(
        rng.choice("bcdfglmnprstv") + rng.choice(("a", "e", "i", "o", "u", "al", "er", "in"))
        for _ in range(rng.randint(1, 3))
    )
    return word + rng.choice(("", "ed", "ing", "al", "ly", "ous", "ic", "ive", "ate", "y", "ar", "ible", "ent", "s"))


def fill(template: str, slots: dict, rng: random.Random) -> str:
    """Expand a template; each {strange} is a new word or, half of the time, one of the stray words."""
    text = template
    while "{strange}" in text:
        text = text.replace("{strange}", strange(rng) if rng.random() < 0.5 else rng.choice(slots["word"]), 1)
    return expand(text, slots, rng)


def scoped(conditions: list[str], label: int, text: str) -> str:
    """The text, whose sides and sizes are of these conditions, or of none where it denies them."""
    return f"<{'' if label == NEGATIVE else ' '.join(conditions)}:{text}>"


def name_of(condition: str, label: int, slots: dict, rng: random.Random, last: bool = True) -> str:
    """One noun phrase for a condition, with or without what may stand before and after it.

    What stands after the last of several names is of all of them: "edema and effusion on the left".
    """
    infiltrate = {("LO", False): 0.15, ("CO", True): 0.2}.get((condition, label == NEGATIVE))
    if infiltrate and rng.random() < infiltrate:
        noun = rng.choice(OPACITY_UNLESS_DENIED)
    elif condition in {"PX", "PE", "PN", "LL"} and rng.random() < 0.2:
        noun = rng.choice(DENIABLE[condition])
        noun = "*pleural fluid" if noun == "fluid" else noun
    else:
        noun = rng.choice(NAMES[condition])
    article, noun = noun.startswith("*"), noun.removeprefix("*")
    region, dressed = REGION[condition], rng.random()
    before = after = ""
    if dressed < (0.25 if label == NEGATIVE else 0.5):
        before = rng.choice(BEFORE[region])
    if rng.random() < 0.05:
        before = f"{{strange}} {before}"
    if rng.random() < (0.06 if label == NEGATIVE else 0.35):
        after = rng.choice(AFTER[region])
    text = fill(f"{before}{noun}>{after}" if last else f"{before}{noun}{after}>", slots, rng)
    if article and label != NEGATIVE and rng.random() < 0.45:
        text = f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"
    return f"<{condition}:{text}"


def joined(nouns: list[str], label: int, alike: bool, rng: random.Random) -> str:
    """ "a", "a or b", "a, b and c" ...; alike: alternatives, for which a stated "or" would be a doubt."""
    if len(nouns) == 1:
        return nouns[0]
    if label == POSITIVE and alike:
        last = rng.choice((" and ", " with ", " and "))
    elif label == UNCERTAIN:
        last = rng.choice((" or ", " or ", " and ", " versus ", " vs ", " and/or ", ", "))
    else:
        last = rng.choice((" or ", " or ", " or ", " and ", ", ", " and/or "))
    if len(nouns) == 2 and rng.random() < 0.05:
        last = rng.choice((" to suggest ", " suggesting ")) if label == POSITIVE else " to suggest "
    if len(nouns) > 2 and rng.random() < 0.5 and last != ", ":
        last = f",{last}"
    if rng.random() < 0.12:
        return last.replace(",", "").join(nouns) if last != ", " else ", ".join(nouns)
    return ", ".join(nouns[:-1]) + last + nouns[-1]


def names(count: int, banned: set[str], rng: random.Random) -> list[str]:
    """`count` different conditions by weight, none of them banned."""
    chosen: list[str] = []
    while len(chosen) < count:
        name = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
        if name not in chosen and name not in banned:
            chosen.append(name)
    return chosen


def noun_claim(conditions: list[str], label: int, slots: dict, rng: random.Random, bare: bool = False) -> str:
    """One claim of one kind about one condition or several, as a noun phrase in a frame."""
    nouns = [name_of(name, label, slots, rng, name == conditions[-1]) for name in conditions]
    if len(nouns) > 1 and rng.random() < 0.1:  # something outside the 13 in the same breath
        nouns.insert(rng.randrange(len(nouns)), f"<:{expand(rng.choice(OUTSIDE), slots, rng)}>")
    alike = len(CONFUSABLE.intersection(conditions)) > 1
    both = joined(nouns, label, alike, rng)
    if bare:
        return both
    if label == NEGATIVE and len(nouns) > 1 and rng.random() < 0.15:
        either = f"neither {nouns[0]}, " if len(nouns) > 2 and rng.random() < 0.5 else f"neither {nouns[0]} "
        verb = fill("[[is|are] {seen}|is seen|was found|]", slots, rng)
        return rng.choice(("", "there is ")) + either + " ".join(f"nor {noun}" for noun in nouns[1:]) + f" {verb}"
    if label == NEGATIVE and len(nouns) > 1 and rng.random() < 0.2:
        return "no " + rng.choice((", no ", " and no ", ". no ", ", nor ", "; no ", " or ")).join(nouns)
    if label == UNCERTAIN and len(conditions) == 1 and rng.random() < 0.22 and conditions[0] in SIGNS:
        return sign_claim(conditions[0], "{maybe}", both, slots, rng)
    if label == POSITIVE and len(conditions) == 1 and rng.random() < 0.12 and conditions[0] in SIGNS:
        return sign_claim(conditions[0], "{surely}", both, slots, rng)
    if label == UNCERTAIN and rng.random() < 0.1:  # a hedge before a whole sentence that states
        hedge = rng.choice(
            ("possible ", "possible ", "possible ", "questionable ", "? ", "perhaps ", "possibly ", "cannot exclude ")
        )
        return hedge + fill(rng.choice(HEDGEABLE).replace("{x}", both), slots, rng)
    return fill(rng.choice(FRAMES[label]).replace("{x}", both), slots, rng)


def sign_claim(condition: str, link: str, noun: str, slots: dict, rng: random.Random) -> str:
    """ "Blunting of the left costophrenic angle may represent an effusion": what is seen, a link, and the name."""
    sign = rng.choice(SIGNS[condition])
    opening = rng.choice(("", "", "", "{there}", "[there is |]{sev}"))
    place = rng.choice(SIGN_PLACE[REGION[condition]])
    return fill(f"{opening}{sign.removeprefix('*')}{place}{link}{noun}", slots, rng)


def part_claim(label: int, slots: dict, rng: random.Random) -> tuple[str, str]:
    """A claim as what a part of the body is: "the pleura may be thickened" -> its condition and the text."""
    condition, subject, predicate = rng.choice(PREDICATES)
    frame = rng.choice(FRAMES_OF[label])
    if label != POSITIVE:
        predicate = predicate.replace("{sevadv}", rng.choice(("", "", "mildly ", "slightly ", "significantly ")))
    said = expand(subject, slots, rng)
    bare = said.removeprefix("the ")
    text = frame.replace("{s}", said).replace("{n}", bare).replace("{p}", predicate)
    return condition, fill(text, slots, rng)


def claim(slots: dict, rng: random.Random, denials_only: bool = False) -> Statement:
    """One statement: a claim about one to four conditions, a part of the body, or two claims of different kinds."""
    label = NEGATIVE if denials_only else rng.choices((POSITIVE, NEGATIVE, UNCERTAIN), (40, 28, 32))[0]
    kind, labels = rng.random(), dict.fromkeys(SHORT, BLANK)
    if kind < 0.14:
        condition, text = part_claim(label, slots, rng)
        labels[condition] = label
    elif kind < 0.30 and not denials_only:
        second = rng.choice([other for first, other in LINKS if first == label])
        chosen = names(rng.choice((2, 2, 3)), set(), rng)
        first_text = noun_claim(chosen[:1], label, slots, rng)
        if second == POSITIVE:
            other = noun_claim(chosen[1:], second, slots, rng, bare=rng.random() < 0.5)
        else:
            other = noun_claim(chosen[1:], second, slots, rng, bare=True)
        link = rng.choice(LINKS[label, second])
        text = scoped(chosen[:1], label, first_text) + link + scoped(chosen[1:], second, other)
        labels[chosen[0]] = label
        labels.update(dict.fromkeys(chosen[1:], second))
    else:
        chosen = names(rng.choices((1, 2, 3, 4), (58, 22, 15, 5))[0], set(), rng)
        text = noun_claim(chosen, label, slots, rng)
        labels.update(dict.fromkeys(chosen, label))
    return statement(" ".join(text.replace(" ,", ",").split()), tuple(labels[name] for name in SHORT))
