"""Statements that name none of the 13 conditions: technique, comparison, clear lungs, bones, vessels, belly, advice.

`!` marks an abnormality outside the 13, after which CheXbert leaves No Finding blank.
"""
# ruff: noqa: E501 - a template is one line, however long

Rows = tuple[tuple[str, str], ...]

OTHER: dict[str, Rows] = {
    "clear": (
        ("", "[the |both |]lungs {are} [clear|grossly clear|clear bilaterally|otherwise clear|clear and expanded|well expanded and clear|well-aerated|normally inflated|well inflated|clear and well expanded|well aerated|normally aerated and clear]"),
        ("", "clear lungs[ bilaterally|]"),
        ("", "lungs clear"),
        ("", "[the |][left|right] lung is [clear|grossly clear|well aerated|otherwise clear]"),
        ("", "[the |]pleural spaces [are |][clear|unremarkable|within normal limits|grossly clear]"),
        ("", "[the |]costophrenic [angles|xxxx|sulci] are [clear|sharp|excluded]"),
        ("", "[remaining|the remaining|the remainder of the] lungs [are|is] clear"),
        ("", "[the |]lung xxxx are clear"),
        ("", "the lungs and pleural spaces show no acute abnormality"),
        ("", "[pulmonary vascularity|pulmonary vasculature|the pulmonary vascularity|vascularity|pulmonary vascular markings|hilar vascular markings|the hila|hilar contours|the pulmonary xxxx] [is|are|appears] [normal|within normal limits|unremarkable|normal in caliber|stable]"),
        ("", "normal [pulmonary vascularity|pulmonary vasculature|chest|xxxx|lung volumes|chest x-ray|chest radiograph|chest x-xxxx]"),
        ("", "[pulmonary vasculature|pulmonary xxxx] [is|are] [not engorged|engorged|prominent|increased]"),
        ("", "[no|there is no|without] [acute|evidence of acute|radiographic evidence of acute|active|evidence of active] [cardiopulmonary|pulmonary|cardiac|intrathoracic|chest|airspace|disease|abdominal] [disease|process|abnormality|findings|abnormalities|pathology]"),
        ("", "no acute [findings|disease|process|intrathoracic process]"),
        ("", "[lungs|heart and lungs] demonstrate no acute findings"),
        ("", "unremarkable [chest|examination|chest radiograph|study]"),
        ("", "[the |]diaphragm[ is|s are] [normal|intact|within normal limits]"),
        ("", "[the |]trachea is [midline|normal|normal in position]"),
        ("", "trachea and xxxx bronchi appear normal"),
        ("", "[low lung volumes|lung volumes are low|the lungs are hypoinflated|lungs are mildly hypoinflated|low lung volumes are present|low inspiratory volumes|lung volumes are decreased]"),
        ("", "low lung volumes [with|causing|resulting in] [mild |central |][bronchovascular crowding|crowding of the bronchovascular structures|vascular crowding|accentuation of the bronchovascular markings]"),
        ("", "no [interval|significant interval|xxxx] change"),
    ),
    "bones": (
        ("", "[bony structures|the osseous structures|osseous structures|bones|visualized osseous structures|visualized bony structures|the bony structures|bony thorax|the skeletal structures|ribs|the xxxx|xxxx|imaged osseous structures|visualized xxxx of the chest xxxx] {are} [intact|grossly intact|normal|unremarkable|within normal limits|without acute abnormality|within normal limits for patient age|unremarkable in appearance|grossly unremarkable|without focal abnormality]"),
        ("", "[no|there are no|there is no|no xxxx] acute [osseous|bone|skeletal|xxxx] [abnormality|abnormalities|findings][ identified| is identified| seen|]"),
        ("", "negative for acute bone abnormality"),
        ("", "[visualized bony structures|osseous structures] [reveal|show|demonstrate] no acute abnormalities"),
        ("", "[soft tissues|xxxx and soft tissues|bony thorax and soft tissues|the soft tissues|visualized soft tissues and upper abdomen|upper abdomen] [are|is] [unremarkable|normal|grossly unremarkable|within normal limits]"),
        ("!", "{sev}[degenerative changes|degenerative change|degenerative disease|degenerative disc disease|spondylosis|osteophytes|osteophyte formation|endplate changes|arthritic changes|spurring|degenerative endplate changes|dish|multilevel degenerative changes] [of|in|throughout] the [thoracic spine|spine|thoracolumbar spine|mid thoracic spine|shoulders|lower thoracic spine|acromioclavicular joints]{noted}"),
        ("!", "{there}{sev}degenerative [changes|change|disease] [of|in] the [thoracic |]spine"),
        ("!", "[mild |moderate |severe |thoracic |lumbar ][scoliosis|dextroscoliosis|levoscoliosis|kyphosis|osteopenia|spondylosis|dextrocurvature|kyphoscoliosis]{noted}{chg}"),
        ("!", "[the |]bones are [osteopenic|demineralized|diffusely demineralized]"),
        ("!", "[thoracic|lower thoracic|multilevel] [spondylosis|degenerative disc disease|osteophytes|degenerative changes]"),
        ("!", "[chronic |old |stable ][rib deformity|deformity of the {lr} lateral rib|rib deformities|deformity of the proximal humerus|contour deformity of the 7th rib]{chg}"),
        ("!", "[mild |]anterior wedging of [a |][lower |mid ]thoracic vertebral bod[y|ies]"),
        ("!", "mild wedge xxxx deformity of [a midthoracic vertebral body|t12]"),
        ("!", "bridging osteophytes{noted}"),
        ("!", "postsurgical changes of the [left |right ][shoulder|breast|hemithorax|chest|mediastinum|lower cervical spine]"),
        ("!", "[old|remote] [trauma|injury] to the {lr} [shoulder|clavicle|rib cage]"),
        ("!", "[cervical|ac joint|acromioclavicular|glenohumeral] [arthritis|arthropathy|osteoarthritis|degenerative change]"),
    ),
    "vessels": (
        ("!", "[the |][thoracic |descending thoracic |][aorta|aortic xxxx] is {sevadv}[tortuous|ectatic|calcified|unfolded|tortuous and calcified|atherosclerotic|tortuous and ectatic]{chg}"),
        ("!", "[tortuous|ectatic|calcified|unfolded|atherosclerotic|mildly tortuous] [thoracic |][aorta|aortic arch|aortic knob]"),
        ("!", "{sev}[atherosclerotic|aortic|vascular] [calcification|calcifications|atherosclerosis|changes] [of the aorta|of the aortic arch|in the aorta|of the aortic knob|of the aortic xxxx|are present]"),
        ("!", "[tortuosity|ectasia|atherosclerosis|unfolding] of the [thoracic |]aorta{noted}"),
        ("!", "[pulmonary arteries are enlarged|enlarged pulmonary arteries|prominent hila|prominent pulmonary arteries|hilar prominence|bilateral hilar prominence|pulmonary arterial hypertension|prominent central pulmonary vasculature|bilateral hilar fullness]"),
        ("", "aortic [xxxx|knob|arch] [appears|is] [normal|unremarkable]"),
        ("!", "coronary artery calcifications{noted}"),
    ),
    "elsewhere": (
        ("!", "[a skin fold|breast tissue|bowel|the scapula|a calcification|an artifact|the chin] projects over the {place}"),
        ("", "[there has been |][interval |][removal|withdrawal] of [the |a |][right |left |right-sided |left-sided |]{dev}"),
        ("", "[the |previously seen |previously noted |][right |left |]{dev} [has|have] been [removed|withdrawn|discontinued]"),
        ("!", "[coronary |coronary artery |aortic |biliary |ureteral |abdominal aortic |vascular |esophageal |]stent[s|]{noted}{chg}"),
        ("!", "[status post |prior |previous |stable |][aortic |mitral |cardiac |][valve replacement|valve surgery|valve repair|valve artifact|valve prosthesis|prosthetic valve]{noted}"),
        ("!", "[tubular|curvilinear] densities over the heart{surely}coronary artery stents"),
        ("!", "[aortic |]stent graft [overlies the descending thoracic aorta|in the abdominal aorta]{noted}"),
        ("!", "[anterior cervical fusion|spinal fusion|orthopedic|lumbar fusion|spinal fixation|posterior spinal] [hardware|plate and screws|rods|fusion changes]{noted}"),
        ("!", "[shoulder|hip|left shoulder|right shoulder|knee] [replacement|arthroplasty|prosthesis]{noted}"),
        ("!", "[sternotomy|surgical|skin] [sutures|staples|xxxx][ and bypass grafts|] [have been placed in the interval|have been removed|are present|noted]"),
        ("", "xxxx-a-xxxx [remains |is |][in xxxx|terminating at the caval atrial junction|in place]"),
        ("", "[frontal and lateral views|portable frontal view|frontal view] of the chest with overlying [external |][cardiac |ekg |][monitor |]leads"),
        ("", "[external |overlying |multiple overlying ][monitor|ekg|cardiac monitor] leads{noted}"),
        ("", "[see above|as described above|see comments|as noted above|no acute findings, see above|as above|see discussion]"),
        ("!", "[central |pulmonary |][vascular prominence|vascular markings are {sevadv}prominent|prominent central pulmonary vasculature|vascular fullness]{noted}"),
        ("", "[central |pulmonary |][vascular|bronchovascular] markings are [symmetric and |][within normal limits|normal|unremarkable]"),
        ("!", "{sev}[peribronchial|bronchial wall|peribronchovascular|bronchial] [thickening|cuffing]{maybein}"),
        ("!", "[mediastinal|tracheal|rightward mediastinal|leftward mediastinal] shift[ to the {lr}| is noted|]"),
        ("!", "[right |left |prominent right |][paratracheal|hilar] [soft tissue density|soft tissues|calcifications|stripe is dense|prominence|fullness]{noted}"),
        ("!", "[calcified |][right |left |][hilar|mediastinal|paratracheal|subcarinal|perihilar] [lymph |][node|nodes|xxxx]{noted}{chg}"),
        ("!", "[small |round |focal |scattered |][calcific|soft tissue|metallic|bony|linear|curvilinear|oval] densit[y|ies] {in}{noted}"),
        ("!", "density measuring {measure} [in|over|behind] the [heart|mediastinum|chest wall|upper abdomen]"),
        ("!", "[normal heart size is |stable |][prominent|prominence of the] left ventricular [contour|apex]"),
        ("!", "[degenerative change|curvature|kyphosis|scoliosis|deformity|disc disease] [at|near|about] the [thoracolumbar|cervicothoracic|costochondral|acromioclavicular|lumbosacral] [junction|junctions|joint|joints|spine]"),
        ("!", "pectus [carinatum|excavatum|deformity]{noted}"),
        ("!", "[widening|separation|dislocation|subluxation] of the {lr} [acromioclavicular joint|shoulder|sternoclavicular joint]"),
        ("!", "[enlarged|dilated|aneurysmal] [left atrium|ascending aorta|aortic root|azygos vein|pulmonary artery]{noted}"),
        ("!", "[right|left] [breast|chest wall|axillary|thyroid] mass [is palpable|is again seen outside the lungs]"),
        ("!", "[xxxx|wedge|biconcave|anterior wedge] deformit[y|ies] of [l1|t12|a mid thoracic vertebral body|the thoracic spine]{chg}"),
        ("!", "[vertebroplasty|kyphoplasty|embolization coils|bone island|hemangioma|rectal balloon|pessary|costochondral calcification]{noted}"),
        ("", "[if there is |][concern|clinical concern] for [fracture|rib injury], [consider|recommend] [rib series|dedicated views]"),
        ("", "ct [is|would be] more sensitive [in detecting|for] [small nodules|subtle disease]"),
        ("!", "aorta measures {measure}[ in diameter|]"),
        ("!", "[prior |status post |postoperative changes of |][anterior cervical fusion|cervical spine fusion|lower cervical fusion xxxx|vertebroplasty|spinal fusion|rotator cuff repair|rib resection]{noted}"),
        ("!", "[right|left] humeral [head bone anchor[s|]|intramedullary xxxx|internal fixation xxxx]{noted}"),
        ("!", "[bullet|bullet fragment|metallic foreign body|radiopaque foreign body|projectile fragment] [overlying the {lr} [t7 vertebra|rib|chest wall]|in the soft tissues]"),
        ("!", "surgical suture material [projects over the {lr} lung apex|in the {place}]"),
        ("!", "[contrast|residual contrast] within the [colon|renal collecting systems|stomach|bowel|small colonic diverticula]"),
        ("!", "[multiple |][dilated|slightly distended|air-filled] loops of [small bowel|colon]{noted}"),
        ("!", "[joint space loss|subchondral sclerosis|cyst formation|osteoarthritis] of the [hip|knee|shoulder]"),
        ("", "[left|right] knee: there is no joint effusion"),
        ("", "[vague |]density {in} [likely |xxxx |]related to [overlying shadows of bony structures|superimposed ribs|scapular tip|overlying soft tissues|the nipple]"),
        ("!", "[calcific|calcified|small round calcific|dense] densit[y|ies] {in}{surely}[calcified granuloma|prior granulomatous disease|old granulomatous disease]"),
        ("!", "[residuals|residual] of prior granulomatous infection"),
        ("!", "{sev}volume loss [of|in] the {lr} [lung|hemithorax|side]"),
        ("!", "[indistinct central vascular margination|pulmonary vascular redistribution|central pulmonary arteries are prominent]"),
        ("!", "[rounded|small|focal|linear] lucency {in}"),
        ("!", "[irregularity|contour irregularity|sclerosis] of the [{lr} 9th rib|ribs|distal clavicle|humeral heads]{chg}"),
        ("!", "[numerous|multiple|a few|several|scattered] [surgical clips|calcifications|vascular calcifications|healed granulomas|osteophytes|rib deformities]{noted}"),
        ("!", "[a few |scattered |multiple |]calcified granulomas {in}{noted}"),
        ("!", "thickening of the [minor |major |]fissure"),
        ("!", "dextroscoliosis of the thoracolumbar spine"),
        ("!", "[osteophytes|spurs|cysts] are [also |]present at the [acromioclavicular joints|humeral necks|hips|knees]"),
        ("!", "calcified [splenic |hepatic |][granulomas|granuloma] are [also |]noted"),
        ("!", "partial obscuration of the {lr} hemidiaphragm[ due to overlying soft tissues|]"),
        ("!", "[left|right] atrial enlargement[ suspected|]"),
        ("!", "[aberrant {lr} subclavian artery|right aortic arch|dilated esophagus|absent breast shadow|cardiac apex is {lr}-sided]"),
        ("", "please note that fractures may not be demonstrated on this study"),
        ("", "consider [dedicated |][rib views|rib series|mri|bone scan|additional imaging] [if clinically indicated|as clinically warranted|for further evaluation]"),
        ("", "[large amount of|moderate] stool [and gas |]in the [colon|pelvis|bowel]"),
        ("", "[cervical spine|femur|hip|knee|ankle|wrist|larynx|soft tissues of the neck] [intact|is normal|are unremarkable|views obtained]"),
        ("", "no [bony erosions|osseous destruction|pericardial effusion|abnormal foreign bodies]"),
        ("", "this is also well seen on the lateral view"),
        ("", "the xxxx scan is recommended for further evaluation"),
    ),
    "odd": (
        ("", "{there}[a |an |]{word} {word}{maybein}{noted}"),
        ("", "[the |]{word} {word} [is|are|appears|remains] {word}{chg}"),
        ("", "{sev}{word} {word}{noted}{chg}"),
        ("", "{word} {word} [of|in|near|over|at] the {word} {word}"),
        ("", "[no|there is no|without|no evidence of] {word} {word}{nopost}"),
        ("", "{word} {word}{maybe}{word} {word}"),
        ("", "[status post|prior|evidence of|changes of] {word} {word}[ in place| in position| unchanged|]"),
        ("", "[recommend|consider|correlate with] {word} {word}"),
    ),
    "chronic": (
        ("!", "{there}[{sev}|scattered |several |multiple |small |stable |][calcified |old |healed ][{adjplace} |]granuloma[s|]{maybein}{chg}"),
        ("!", "{adjplace} calcified granuloma[s|]{chg}"),
        ("!", "calcified granuloma {in}"),
        ("!", "[sequelae of |evidence of |changes of |prior |old |remote |healed ]granulomatous [disease|infection|process]{noted}"),
        ("!", "calcified [hilar |mediastinal |subcarinal |perihilar |]lymph [nodes|xxxx]{noted}"),
        ("!", "[right|left] hilar calcification[s|] suggest[s|] a previous granulomatous process"),
        ("!", "calcified [mediastinal|hilar] granulomas"),
        ("!", "[the |]lungs [are|appear] {sevadv}[hyperexpanded|hyperinflated|hyperaerated|hyperlucent]{chg}"),
        ("!", "{sev}[hyperinflation|hyperexpansion|emphysema|copd|emphysematous changes|chronic obstructive pulmonary disease|centrilobular emphysema|bullous emphysema|bullous changes|hyperexpanded lungs]{noted}{chg}"),
        ("!", "flattening of the [hemi|]diaphragms[ consistent with emphysema| compatible with copd|, suggesting underlying copd|]"),
        ("!", "hyperexpanded but clear lungs"),
        ("!", "[lungs are |]hyperexpanded but clear"),
        ("!", "[large|small|moderate|] hiatal hernia{noted}{chg}"),
        ("!", "[elevation|eventration] of the {lr} [hemidiaphragm|diaphragm]{noted}{chg}"),
        ("!", "[the |]{lr} hemidiaphragm is [mildly |chronically |][elevated|eventrated]{chg}"),
        ("!", "elevated {lr} hemidiaphragm"),
        ("!", "[mild |minimal |stable |bilateral |][blunting of the {lr} costophrenic [angle|xxxx|sulcus]|costophrenic xxxx blunting]{noted}{chg}"),
        ("!", "costophrenic [xxxx|angle] [is |are |]blunted[ on the {lr}|]"),
        ("!", "[epicardial|pericardial|prominent epicardial|cardiophrenic] fat pad{noted}"),
        ("!", "azygos [fissure|lobe]{noted}"),
        ("!", "{side} [hilar|mediastinal|hilar and mediastinal] [lymphadenopathy|adenopathy]"),
        ("!", "[mild |diffuse |]bronchiectasis{maybein}"),
        ("!", "[subcutaneous emphysema|pneumomediastinum|pneumoperitoneum|free air under the diaphragm]{noted}"),
        ("!", "[bullae|blebs|bulla|lucency] {in}"),
        ("!", "[dextrocardia|situs inversus|pectus excavatum|pectus deformity|cervical rib|right-sided aortic arch]{noted}"),
    ),
    "surgery": (
        ("!", "[cholecystectomy |surgical |axillary |mediastinal |abdominal |]clips [overlie the right upper quadrant|are present|are noted|in the right upper quadrant|project over the mediastinum|in the {lr} axilla|unchanged]"),
        ("!", "[status post|prior|previous|changes of|midline|xxxx|evidence of prior|patient is status post] sternotomy[ xxxx|][ noted| are intact| again noted|]"),
        ("!", "sternotomy xxxx [and surgical clips |and mediastinal clips |][are intact|are again seen|noted|unchanged]"),
        ("!", "[status post|prior|changes of|features of|evidence of|] [cabg|mastectomy|cholecystectomy|thoracotomy|lobectomy|coronary bypass|esophagectomy]{noted}"),
        ("", "[overlying|external] [ekg leads|leads|monitor leads|xxxx]"),
    ),
    "frame": (
        ("", "[pa and lateral|ap and lateral|frontal and lateral|two|2|single ap|portable ap|ap portable upright|single frontal|xxxx and lateral|pa] [views|view|radiographs|images] of the chest[ were obtained| are submitted| provided| obtained|]"),
        ("", "comparison [is made |][to |with |][xxxx|prior radiograph|chest radiograph from xxxx|none|ct chest dated xxxx]"),
        ("", "[in comparison with|as compared to|compared with] the [study of xxxx|previous radiograph|prior study|earlier study of the same date][, there is little change|, there is no relevant change|, no significant change|]"),
        ("", "[chest|2 images|findings|impression|chest pa and lateral|radiograph|indication xxxx]"),
        ("", "[no relevant|no significant|little overall|no interval|there is no significant] change[ since the prior study| compared to the prior study| from prior|]"),
        ("", "the patient is [rotated|slightly rotated|kyphotic|xxxx]"),
        ("", "[clinical correlation|followup|follow-up radiograph|chest ct|further evaluation with ct] is [recommended|suggested|advised]"),
        ("", "recommend [ct for further evaluation|clinical correlation|short interval followup|dedicated views|comparison with prior films]"),
        ("", "[limited|portable|suboptimal] [exam|examination|study|inspiration][ due to xxxx| secondary to patient rotation|]"),
        ("", "findings were discussed with dr. xxxx [at xxxx|by telephone|on xxxx]"),
        ("", "the xxxx examination consists of frontal and lateral radiographs of the chest"),
        ("", "xxxx xxxx and lateral chest examination was obtained"),
        ("", "[the |]nipple [shadows|markers|rings] [are noted|are present|overlie the lung bases]"),
        ("", "[there is no |no ][visible |][free intraperitoneal air|free air|free subdiaphragmatic air|pneumoperitoneum][ under the diaphragm| below the right hemidiaphragm is seen|]"),
        ("", "{mask} [are|is] [normal|intact|unremarkable|xxxx|stable]"),
        ("", "[xxxx-year-old|xxxx year old|45-year-old] [male|female|man|woman|xxxx] with [xxxx|chest pain|dyspnea|cough|shortness of breath|fever]"),
        ("", "[chest pain|shortness of breath|cough and fever|preoperative evaluation|history of hypertension|evaluate for xxxx]"),
        ("", "[the |]bowel gas pattern is [normal|unremarkable]"),
        ("", "[the |]airway is patent"),
        ("", "no evidence of active tuberculosis"),
        ("", "breast [shadows|implants|tissue] [overlie|are noted over] the lung bases"),
    ),
}  # fmt: skip

SALAD_TEXT = (
    "patient history dated comparison study again interval appearance prior exam film view lateral frontal note "
    "made please see likely artifact overlying shadow tissue region area measuring approximately cm mm level "
    "anterior posterior superior inferior medial upper lower structures contour position normal abdomen bowel gas "
    "stomach liver shoulder neck breast skin fold age change stable noted seen obtained recommend correlation "
    "clinical further evaluation ct imaging dated reported known related secondary which with and of the in on to "
    "from at is are was been has this that there for or by as also femur hip knee pelvis stool colon spleen kidney "
    "renal hepatic esophagus thyroid larynx myeloma arthritis sclerosis joint space ligament muscle contrast barium "
    "diverticula loops dilated distended quadrant scapula humerus vertebra disc endplate osteophyte obscured "
    "visualized demonstrated prominent diminished decreased increased slightly somewhat markedly several few "
    "multiple numerous scattered residual previous subsequent current recent remote chronic acute subacute portable "
    "upright supine decubitus oblique rotated inspiration expiration technique penetration exposure marker jewelry "
    "clothing hair button snap monitor bracelet gown hospital emergency department physician nurse clinic morning "
    "hours days weeks months years ago since before after during while although because however therefore otherwise "
    "treatment therapy antibiotics surgery biopsy radiation transplant donor medication dose response culture "
    "laboratory blood sputum urine test result positive elevated count protein oxygen saturation pressure rate "
    "pulse temperature weight smoker alcohol travel contact family mother child adult infant elderly young male "
    "female pregnant worker student large small moderate mild severe left right bilateral midline proximal distal "
    "central peripheral diffuse focal linear irregular smooth lucent metallic foreign body anatomic variant "
    "congenital acquired traumatic benign indeterminate nonspecific limited complete partial "
    "thoracolumbar cervicothoracic costochondral lumbosacral acromioclavicular sternoclavicular glenohumeral junction "
    "sternum manubrium xiphoid clavicle coracoid glenoid trachea carina bronchus bronchial bronchitis hilum hilar aorta "
    "aortic aneurysm ventricle ventricular atrium atrial valvular mitral coronary artery stent graft vein azygos vascular "
    "markings arch knob apex diaphragm hemidiaphragm eventration hernia hiatal gastric gallbladder pancreas adrenal spine "
    "kyphosis lordosis curvature dextroscoliosis pectus carinatum excavatum demineralization osteopenia spondylosis spur "
    "deformity wedge compression cortical sclerotic lytic cyst cystic lipoma fat pad thymus nipple bone bones skeletal "
    "soft tissues granulomatous calcification calcified lymph node emphysema bulla bleb hyperinflation flattening "
    "bronchiectasis asthma smoking sarcoidosis amyloid lupus anemia sickle vertebroplasty kyphoplasty laminectomy "
    "mastectomy lobectomy cholecystectomy clip suture staple bypass transplant dialysis pacing rhythm telemetry "
    "cassette collimation grid exposure digital archive transcribed dictated reviewed attending resident signed "
    "addendum protocol series dedicated incidental redundant symmetric maintained preserved alignment height spaces "
    "winged scapular rotator cuff tendon knee ankle wrist elbow hand foot skull sinus orbit dental jaw tongue "
    "vertebral bodies interspaces endplates foramina sacrum coccyx iliac bladder uterus prostate ureter catheterization"
)
SALAD = tuple(SALAD_TEXT.split())
"""Words of sentences that say nothing: the labeler must not panic at prose it has not met."""
