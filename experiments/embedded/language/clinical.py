"""History, course and commentary, as in case reports and indications: prose around findings, mostly without a claim."""

# ruff: noqa: E501 - a template is one line, however long

Rows = tuple[tuple[str, str], ...]

CLINICAL_SLOTS: dict[str, tuple[str, ...]] = {
    "person": ("a {age}-year-old {sex}", "{age} year old {sex}", "{age} years old {sex}", "adult {sex}", "a middle-aged {sex}", "the patient", "patient", "an elderly {sex}", "a healthy patient", "she", "he", "a retirement aged patient", "this patient", "young patient"),
    "age": ("45", "61", "72", "34", "55", "48", "29", "83", "51", "66", "xxxx", "24"),
    "sex": ("man", "woman", "male", "female", "male patient", "female patient", "patient", "gentleman", "xxxx", "m", "f", "smoker"),
    "symptom": ("fever", "cough", "dry cough", "dyspnea", "shortness of breath", "chest pain", "haemoptysis", "weight loss", "night sweats", "fatigue", "vomiting", "headache", "malaise", "anosmia", "odynophagia", "myalgia", "back pain", "syncope",
                "low-grade fever", "pleuritic chest pain", "sputum", "sore throat", "nausea", "diarrhea", "weakness", "hypoxia", "tachypnea", "altered mental status", "abdominal pain", "wheezing", "chills", "low oxygen saturation", "leukocytosis", "sob"),
    "illness": ("hypertension", "diabetes", "hiv infection", "renal failure", "asthma", "a positive tb test", "covid-19", "sars-cov-2", "influenza", "sepsis", "breast cancer", "leukemia", "coronary artery disease", "end-stage renal disease", "stroke",
                "lymphoma", "trauma", "a fall", "motor vehicle accident", "gerd", "cirrhosis", "tuberculosis", "cystic fibrosis", "sarcoidosis", "sickle cell disease", "prior surgery", "obesity", "scoliosis", "t2dm", "respiratory failure", "ards"),
    "test": ("rt-pcr", "laboratory tests", "sputum cultures", "blood cultures", "serology", "bronchoscopy", "ct", "physical examination", "ecg", "echocardiography", "blood tests", "biopsy", "pcr", "high-resolution ct", "c-reactive protein", "lymphocyte count"),
    "when": ("on admission", "on day 2", "two weeks later", "for one month", "at presentation", "after treatment", "on arrival", "yesterday", "for 5 days", "7 days after extubation", "at follow-up", "two days earlier", "over the following week", "in 2020", "after 12 hours", "since xxxx"),
}  # fmt: skip

CLINICAL: Rows = (
    ("", "{person} [presented with|with|admitted with|complains of|had|reports|developed|referred for] {symptom}[ and {symptom}|, {symptom} and {symptom}|] [{when}|]"),
    ("", "{person} with [a |][history of|known|past history of|newly diagnosed|previous] {illness}[ and {illness}|, {symptom}|]"),
    ("", "[indication|history|clinical history|presentation|reason for exam]: {symptom}[, {symptom}| and {symptom}|]"),
    ("", "{symptom}[, {symptom}|] and {symptom} {when}"),
    ("", "{test} [was|were] [normal|positive|negative|unremarkable|performed|within normal range|positive for {illness}|negative for {illness}] [{when}|]"),
    ("", "{person} [tested positive for|was treated for|recovered from|was discharged after|was started on treatment for] [covid-19|{illness}|antibiotics|antiretroviral therapy] [{when}|]"),
    ("", "[evaluate for|rule out acute|assess for interval change in] [xxxx|disease|cardiopulmonary process|{symptom}]"),
    ("", "chest [radiograph|x-ray] [{when}|of the patient {when}|anteroposterior view|taken {when}]"),
    ("", "[radiological stability|marked improvement|clinical worsening|progressive deterioration|complete recovery] {when}"),
    ("", "the patient [denied|had no] {symptom}[, {symptom}|] or {symptom}"),
    ("", "[discussion|imaging notes|case course|findings|outcome]: {person} [recovered|was discharged|was treated|improved|died] {when}"),
    ("SD+", "{person} [was|is] intubated[ and ventilated|] [{when}|]"),
    ("SD+", "[ett|et tube|endotracheal tube][, ng tube|, ngt| and ng tube] and [right jugular cvl|left picc|right central venous line|intercostal drain] [in place|in situ|are well positioned|present]"),
    ("PN+", "{person} [admitted with|presented with|diagnosed with|treated for] [pneumonia|community-acquired pneumonia|covid-19 pneumonia|viral pneumonia|pneumocystis pneumonia]"),
    ("LO+", "[hazy|diffuse|patchy|bilateral|multifocal|peripheral|faint|symmetrical|progressive] [ground-glass opacities|airspace opacification|infiltrates|ground glass haze|opacities|air space opacities] [in both lungs|bilaterally|with a predominance in the lower zones|in the mid and lower zones|on both sides|with sparing of the apices|affecting both lungs]"),
    ("LO+", "chest [x-ray|radiograph] [{when} |][shows|showing|revealing|demonstrates|showed|reveals] [worsening |bilateral |hazy |patchy |new |diffuse ][infiltrates|opacities|opacification|ground-glass opacities|lung opacities|interstitial infiltrates] [in both lungs|in bilateral lung zones|(arrows)|bilaterally|]"),
    ("CO+", "chest [x-ray|radiograph] [shows|showing|revealing|demonstrates|showed] [{adjplace}|patchy|dense|multifocal|lobar|bilateral|peripheral] [consolidation|consolidations|areas of consolidation|parenchymal consolidation] {in}"),
    ("LO+ PN+", "hazy infiltrates in both lung fields consistent with pneumonia"),
    ("LO+", "[interval|radiological|marked] [improvement|worsening|progression|resolution] of [the |]{adjplace} {opac}"),
    ("CO+", "[radiological worsening|progression], with consolidation {in}"),
    ("LO+ PE-", "{opnoun} {in}. no [pleural |]effusion[s|]"),
)  # fmt: skip
"""Prose about the patient; a few rows carry the findings that such prose likes to report."""

OPENERS = ("otherwise, ", "however, ", "again, ", "in addition, ", "overall, ", "also, ", "on the lateral view, ", "as before, ", "additionally, ",
           "currently, ", "on the frontal view, ", "since the prior study, ", "in the interval, ", "incidentally, ", "in the interim, ", "further, ", "specifically, ",
           "on today's study, ", "compared to xxxx, ", "as compared to the previous radiograph, ", "similarly, ", "allowing for technique, ", "given the low lung volumes, ")  # fmt: skip
CLOSERS = (", as before", ", correlate clinically", " on today's exam", " in this projection", ", as described", ", accentuated by low lung volumes", " xxxx", ", better seen on the lateral view",
           " for the patient's age", " when compared to the prior exam", ", of uncertain significance", " allowing for differences in technique", ", recommend follow-up", " at this time", " on the frontal view")  # fmt: skip
