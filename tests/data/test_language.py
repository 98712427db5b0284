"""Languages are told apart offline, from prose only; what is unsure stays."""

import random

import pytest

from vicuna.conversation import Conversation, Message
from vicuna.data.chat import from_conversation
from vicuna.data.config import LanguageConfig
from vicuna.data.filters.language import kept, language, prose

SENTENCES = {
    "en": (
        "The harbour was quiet when the ferry left before sunrise.",
        "Could you explain how a heat pump warms a house in winter?",
        "She bought three loaves of bread and forgot the butter again.",
        "Our meeting moved to Thursday because the room is being painted.",
    ),
    "de": (
        "Der Hafen war noch still, als die Fähre vor Sonnenaufgang ablegte.",
        "Kannst du mir erklären, wie eine Wärmepumpe im Winter heizt?",
        "Sie kaufte drei Brote und vergass schon wieder die Butter.",
        "Unser Treffen wurde auf Donnerstag verschoben, weil gestrichen wird.",
    ),
    "fr": (
        "Le port était calme quand le bateau est parti avant l'aube.",
        "Peux-tu m'expliquer comment une pompe à chaleur chauffe une maison ?",
        "Elle a acheté trois pains et a encore oublié le beurre.",
        "Notre réunion est reportée à jeudi parce qu'on repeint la salle.",
    ),
    "es": (
        "El puerto estaba tranquilo cuando el barco salió antes del amanecer.",
        "¿Me puedes explicar cómo calienta una casa la bomba de calor?",
        "Compró tres barras de pan y volvió a olvidarse de la mantequilla.",
        "La reunión se pasa al jueves porque están pintando la sala.",
    ),
    "it": (
        "Il porto era tranquillo quando il traghetto è partito prima dell'alba.",
        "Mi puoi spiegare come una pompa di calore riscalda la casa?",
        "Ha comprato tre pagnotte e ha dimenticato di nuovo il burro.",
        "La riunione è spostata a giovedì perché stanno dipingendo la sala.",
    ),
    "pt": (
        "O porto estava calmo quando o barco partiu antes do nascer do sol.",
        "Você pode me explicar como uma bomba de calor aquece a casa?",
        "Ela comprou três pães e esqueceu a manteiga outra vez.",
        "A nossa reunião passou para quinta-feira porque estão pintando a sala.",
    ),
    "nl": (
        "De haven was stil toen de veerboot voor zonsopgang vertrok.",
        "Kun je uitleggen hoe een warmtepomp een huis in de winter verwarmt?",
        "Ze kocht drie broden en vergat alweer de boter mee te nemen.",
        "Onze vergadering is naar donderdag verplaatst omdat de zaal wordt geverfd.",
    ),
    "sv": (
        "Hamnen var tyst när färjan gick före soluppgången.",
        "Kan du förklara hur en värmepump värmer ett hus på vintern?",
        "Hon köpte tre limpor bröd och glömde smöret igen.",
        "Vårt möte flyttades till torsdag eftersom rummet målas om.",
    ),
    "da": (
        "Havnen var stille, da færgen sejlede før solopgang.",
        "Kan du forklare, hvordan en varmepumpe opvarmer et hus om vinteren?",
        "Hun købte tre brød og glemte smørret endnu en gang.",
        "Vores møde er flyttet til torsdag, fordi lokalet bliver malet.",
    ),
    "fi": (
        "Satama oli hiljainen, kun lautta lähti ennen auringonnousua.",
        "Voitko selittää, miten lämpöpumppu lämmittää talon talvella?",
        "Hän osti kolme leipää ja unohti taas kerran voin kauppaan.",
        "Kokouksemme siirtyi torstaille, koska huonetta maalataan.",
    ),
    "pl": (
        "Port był cichy, kiedy prom odpłynął przed wschodem słońca.",
        "Czy możesz wyjaśnić, jak pompa ciepła ogrzewa dom zimą?",
        "Kupiła trzy bochenki chleba i znowu zapomniała o maśle.",
        "Nasze spotkanie przesunięto na czwartek, bo sala jest malowana.",
    ),
    "cs": (
        "Přístav byl tichý, když trajekt před východem slunce odplul.",
        "Můžeš mi vysvětlit, jak tepelné čerpadlo vytápí dům v zimě?",
        "Koupila tři bochníky chleba a zase zapomněla na máslo.",
        "Naše schůzka se přesunula na čtvrtek, protože se místnost maluje.",
    ),
    "hu": (
        "A kikötő csendes volt, amikor a komp napkelte előtt elindult.",
        "El tudod magyarázni, hogyan fűti a hőszivattyú a házat télen?",
        "Vett három kenyeret, és megint elfelejtette a vajat.",
        "A megbeszélésünk csütörtökre került, mert festik a termet.",
    ),
    "ro": (
        "Portul era liniștit când feribotul a plecat înainte de răsărit.",
        "Poți să-mi explici cum încălzește o pompă de căldură casa iarna?",
        "A cumpărat trei pâini și a uitat din nou untul acasă.",
        "Întâlnirea noastră s-a mutat joi, pentru că se zugrăvește sala.",
    ),
    "tr": (
        "Feribot gün doğmadan önce kalktığında liman sessizdi.",
        "Isı pompasının kışın bir evi nasıl ısıttığını açıklar mısın?",
        "Üç ekmek aldı ve tereyağını yine evde unuttu.",
        "Toplantımız perşembeye alındı çünkü oda boyanıyor.",
    ),
    "vi": (
        "Bến cảng yên tĩnh khi chuyến phà rời đi trước bình minh.",
        "Bạn có thể giải thích máy bơm nhiệt sưởi ấm ngôi nhà thế nào không?",
        "Cô ấy mua ba ổ bánh mì và lại quên mất bơ.",
        "Cuộc họp của chúng tôi chuyển sang thứ năm vì phòng đang được sơn.",
    ),
    "id": (
        "Pelabuhan masih sepi waktu kapal itu berangkat, karena kantornya belum buka.",
        "Bisakah kamu jelaskan bagaimana pompa panas menghangatkan rumah?",
        "Dia membeli tiga roti dan lagi-lagi lupa membeli mentega.",
        "Rapat kami dipindahkan ke hari Kamis karena ruangannya sedang dicat.",
    ),
    "ru": (
        "Гавань была тихой, когда паром отошёл до рассвета.",
        "Объясни, пожалуйста, как тепловой насос греет дом зимой.",
        "Она купила три буханки хлеба и снова забыла масло.",
        "Наша встреча перенесена на четверг, потому что зал красят.",
    ),
    "uk": (
        "Гавань була тихою, коли пором відійшов перед світанком.",
        "Поясни, будь ласка, як тепловий насос обігріває будинок узимку.",
        "Вона купила три хлібини й знову забула масло.",
        "Нашу зустріч перенесено на четвер, бо залу фарбують.",
    ),
    "bg": (
        "Пристанището беше тихо, когато фериботът тръгна преди изгрев.",
        "Можеш ли да обясниш как термопомпата отоплява къща през зимата?",
        "Тя купи три хляба и пак забрави маслото в магазина.",
        "Срещата ни е преместена за четвъртък, защото боядисват залата.",
    ),
    "el": (
        "Το λιμάνι ήταν ήσυχο όταν το πλοίο έφυγε πριν την ανατολή.",
        "Μπορείς να μου εξηγήσεις πώς ζεσταίνει το σπίτι μια αντλία θερμότητας;",
        "Αγόρασε τρία καρβέλια ψωμί και ξέχασε πάλι το βούτυρο.",
        "Η συνάντησή μας μεταφέρθηκε την Πέμπτη γιατί βάφουν την αίθουσα.",
    ),
    "ar": (
        "كان الميناء هادئا عندما غادرت العبارة قبل شروق الشمس.",
        "هل يمكنك أن تشرح كيف تدفئ المضخة الحرارية البيت في الشتاء؟",
        "اشترت ثلاثة أرغفة من الخبز ونسيت الزبدة مرة أخرى.",
        "تم نقل اجتماعنا إلى يوم الخميس لأن القاعة تدهن الآن.",
    ),
    "fa": (
        "وقتی کشتی پیش از طلوع آفتاب حرکت کرد بندر آرام بود.",
        "می‌توانی توضیح بدهی که پمپ حرارتی چگونه خانه را گرم می‌کند؟",
        "او سه نان خرید و باز هم کره را فراموش کرد.",
        "جلسه ما به پنجشنبه منتقل شد چون اتاق را رنگ می‌کنند.",
    ),
    "he": (
        "הנמל היה שקט כאשר המעבורת יצאה לפני הזריחה.",
        "תוכל להסביר איך משאבת חום מחממת בית בחורף?",
        "היא קנתה שלוש כיכרות לחם ושוב שכחה את החמאה.",
        "הפגישה שלנו עברה ליום חמישי כי צובעים את החדר.",
    ),
    "hi": (
        "सूर्योदय से पहले जब नाव चली तब बंदरगाह शांत था।",
        "क्या आप समझा सकते हैं कि हीट पंप सर्दियों में घर कैसे गर्म करता है?",
        "उसने तीन रोटियाँ खरीदीं और फिर से मक्खन भूल गई।",
        "हमारी बैठक गुरुवार को होगी क्योंकि कमरे में रंग हो रहा है।",
    ),
    "bn": (
        "সূর্য ওঠার আগে ফেরি ছাড়ার সময় বন্দরটি শান্ত ছিল।",
        "শীতকালে হিট পাম্প কীভাবে ঘর গরম করে তা কি বুঝিয়ে বলবে?",
        "সে তিনটি রুটি কিনেছিল এবং আবার মাখন ভুলে গেল।",
        "ঘর রং করা হচ্ছে বলে আমাদের সভা বৃহস্পতিবারে সরানো হয়েছে।",
    ),
    "ta": (
        "சூரியன் உதிக்கும் முன் படகு புறப்பட்டபோது துறைமுகம் அமைதியாக இருந்தது.",
        "குளிர்காலத்தில் வெப்பப் பம்பு வீட்டை எப்படி சூடாக்குகிறது என்று விளக்க முடியுமா?",
        "அவள் மூன்று ரொட்டிகள் வாங்கினாள், மீண்டும் வெண்ணெயை மறந்துவிட்டாள்.",
        "அறைக்கு வண்ணம் பூசுவதால் எங்கள் கூட்டம் வியாழக்கிழமைக்கு மாற்றப்பட்டது.",
    ),
    "th": (
        "ท่าเรือเงียบสงบเมื่อเรือข้ามฟากออกเดินทางก่อนพระอาทิตย์ขึ้น",
        "ช่วยอธิบายหน่อยได้ไหมว่าปั๊มความร้อนทำให้บ้านอุ่นในฤดูหนาวได้อย่างไร",
        "เธอซื้อขนมปังสามก้อนแล้วก็ลืมเนยอีกครั้งหนึ่ง",
        "การประชุมของเราเลื่อนไปวันพฤหัสบดีเพราะกำลังทาสีห้อง",
    ),
    "zh": (
        "太阳升起之前渡轮离开的时候，港口非常安静，街上几乎没有人，只有几只海鸥在叫。",
        "你能解释一下热泵在冬天是怎么给房子供暖的吗？我想知道它比燃气便宜多少。",
        "她买了三个面包，可是又把黄油忘在了商店里，所以晚上只好再去一趟超市。",
        "因为会议室正在刷漆，我们的会议改到了星期四下午，请大家提前准备好材料。",
    ),
    "ja": (
        "夜明け前にフェリーが出たとき、港はとても静かで、通りにはほとんど人がいませんでした。",
        "ヒートポンプが冬に家をどうやって暖めるのか、分かりやすく説明してもらえますか。",
        "彼女はパンを三つ買いましたが、またバターを買うのを忘れてしまいました。",
        "部屋の壁を塗り直しているので、会議は木曜日の午後に変更になりました。",
    ),
    "ko": (
        "해가 뜨기 전에 배가 떠났을 때 항구는 아주 조용했고 거리에는 사람이 거의 없었습니다.",
        "열펌프가 겨울에 집을 어떻게 따뜻하게 하는지 쉽게 설명해 줄 수 있나요?",
        "그녀는 빵을 세 개 샀지만 이번에도 버터를 사는 것을 잊어버렸습니다.",
        "회의실 벽을 칠하고 있어서 우리 회의는 목요일 오후로 옮겨졌습니다.",
    ),
}
"""Sentences of our own, the same four in each language."""


CONFIG = LanguageConfig()
CODE = "```python\nimport os\nfor datei in os.listdir('.'):\n    print(datei)\n```\n"
BARE_CODE = (
    "def main(argv):\n    for i in range(10):\n        total_sum += values[i] * (x_1 - y_2)\n    return {'a': b}\n"
)


def chat(*texts):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], text) for at, text in enumerate(texts))
    return from_conversation(Conversation("id", messages), "file", "[0]")


@pytest.mark.parametrize("code", SENTENCES)
def test_two_sentences_are_enough_to_tell_a_language(code):
    first, second, third, fourth = SENTENCES[code]
    assert [language([first, second], CONFIG), language([third + " " + fourth], CONFIG)] == [code, code]


def test_single_messages_of_over_forty_characters_are_told_right_in_99_of_100():
    messages = [(code, text) for code, texts in SENTENCES.items() for text in texts if len(text) > 40]
    right = [language([text], CONFIG) == code for code, text in messages]
    assert sum(right) >= 0.99 * len(right)
    wrong = [(code, text) for code, text in messages if language([text], CONFIG) not in (code, "")]
    assert wrong == []


@pytest.mark.parametrize("code", ["de", "es", "id", "nl", "tr", "vi", "zh"])
def test_code_between_the_words_does_not_count(code):
    sentences = SENTENCES[code]
    assert language([sentences[0], CODE * 5 + sentences[1] + "\n\n" + BARE_CODE * 5], CONFIG) == code


@pytest.mark.parametrize(
    "answer", ["42", "ok", CODE * 5, "$E = mc^2$", "https://example.com/der/die/das", "x_1 = y_2 / 7"]
)
def test_what_is_hardly_prose_has_no_language_and_stays(answer):
    (left, drops), code = kept(chat("ok", answer), LanguageConfig(keep=("fr",)))
    assert (code, drops, len(left.rounds)) == ("", [], 1)


def test_wanted_languages_stay_and_others_are_dropped_under_their_code():
    german = chat(*SENTENCES["de"])
    (left, drops), code = kept(german, LanguageConfig(keep=("en",)))
    assert (code, len(left.rounds)) == ("de", 0)
    assert [(drop.stage, drop.reason, drop.detail, drop.round.index) for drop in drops] == [
        ("language", "language not wanted", "de", 0), ("language", "language not wanted", "de", 1)
    ]  # fmt: skip
    assert kept(german, LanguageConfig())[0] == (german, [])
    assert kept(german, LanguageConfig(keep=("de", "en")))[0] == (german, [])
    assert len(kept(german, LanguageConfig(skip=("de",)))[0][1]) == 2


def test_a_long_chat_is_told_by_its_beginning_middle_and_end():
    assert kept(chat(*SENTENCES["fr"] * 20), CONFIG)[1] == "fr"
    mostly = [*SENTENCES["en"][:2], *SENTENCES["es"] * 6]
    assert kept(chat(*mostly), CONFIG)[1] == "es"


def test_a_chat_without_rounds_is_left_alone():
    empty = chat()
    assert kept(empty, LanguageConfig(keep=("en",))) == ((empty, []), "")


def test_english_is_known_by_its_small_words_and_never_where_another_language_is_written():
    rng = random.Random(2)
    for code, texts in SENTENCES.items():
        mixed = " ".join(rng.sample(texts, 3))
        assert (language([mixed], CONFIG) == "en") == (code == "en")


def test_prose_has_words_only():
    text = "Use `x_y` and **smile**, see https://a.b/c?d=e; then path/to/file.\n\n    indented = code\n" + CODE
    assert prose(text) == ["Use", "and", "smile", "see", "then"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("es", "Los dos números de teléfono no coinciden, revise sus datos."),
        ("pt", "Escreva apenas os números separados por vírgulas, por favor."),
        ("zh", "若你的瀏覽器關閉了 cookie，請為這個網站重新啟用它，謝謝。"),
        ("yue", "我哋聽日去邊度食飯呀？佢話唔想去嗰間餐廳，因為啲嘢好貴。"),
        ("gl", "Onte á noite choveu moito e a xente ficou toda na casa dos seus avós."),
    ],
)
def test_a_small_language_is_told_but_not_taken_for_its_large_sister(code, text):
    assert language([text], CONFIG) == code


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("zh", "例如：“pages/contact.html”。如果没有给出，系统将使用“pages/default.html”这个文件。"),
        ("ja", "正しい形式(HH:MM[:ss])ですが、無効な時刻です。もう一度入力してください。"),
    ],
)
def test_an_address_within_a_sentence_without_spaces_leaves_the_sentence(code, text):
    assert language([text], CONFIG) == code
    assert not any(each.isascii() for each in prose("系统将使用“a/b.html”这个文件"))


def test_a_language_that_is_both_kept_and_skipped_is_refused():
    with pytest.raises(ValueError, match="which keep names too"):
        LanguageConfig(keep=("en",), skip=("en",))
    with pytest.raises(ValueError, match="ISO 639"):
        LanguageConfig(keep=("English",))
