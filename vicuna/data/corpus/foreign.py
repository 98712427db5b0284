"""Short chats in other languages, for the language filter to find."""

import random
from collections.abc import Mapping

from vicuna.data.corpus.family import Round

CHATS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "es": (
        ("¿Cuál es la capital de Francia?", "La capital de Francia es París, una ciudad a orillas del Sena."),
        ("¿Cómo se prepara un té?", "Hierve el agua, pon el té en una taza y espera unos cuatro minutos."),
        ("¿Qué día viene después del lunes?", "Después del lunes viene el martes, y después del martes el miércoles."),
        ("¿Puedes ayudarme a escribir una carta?", "Claro que sí. Dime a quién quieres escribir y por qué."),
        ("¿Cuántos meses tiene un año?", "Un año tiene doce meses, desde enero hasta diciembre."),
        ("Muchas gracias por tu ayuda.", "De nada, me alegro mucho de haber podido ayudarte hoy."),
    ),
    "de": (
        ("Was ist die Hauptstadt von Frankreich?", "Die Hauptstadt von Frankreich ist Paris, eine Stadt an der Seine."),
        ("Wie koche ich einen Tee?", "Koche zuerst das Wasser, gib den Tee in eine Tasse und warte etwa vier Minuten."),
        ("Welcher Tag kommt nach Montag?", "Nach dem Montag kommt der Dienstag, und danach kommt der Mittwoch."),
        ("Kannst du mir bei einem Brief helfen?", "Natürlich helfe ich dir gern. An wen möchtest du schreiben?"),
        ("Wie viele Monate hat ein Jahr?", "Ein Jahr hat zwölf Monate, von Januar bis Dezember."),
        ("Vielen Dank für deine Hilfe.", "Gern geschehen, ich freue mich, dass ich dir helfen konnte."),
    ),
    "fr": (
        ("Quelle est la capitale de l'Espagne ?", "La capitale de l'Espagne est Madrid, au centre du pays."),
        ("Comment faire du thé ?", "Faites bouillir de l'eau, mettez le thé dans une tasse et attendez un peu."),
        ("Quel jour vient après lundi ?", "Après le lundi vient le mardi, et ensuite vient le mercredi."),
        ("Peux-tu m'aider à écrire une lettre ?", "Bien sûr. Dis-moi à qui tu veux écrire et pourquoi."),
        ("Combien de mois y a-t-il dans une année ?", "Il y a douze mois dans une année, de janvier à décembre."),
        ("Merci beaucoup pour ton aide.", "Avec plaisir, je suis content d'avoir pu t'aider aujourd'hui."),
    ),
    "zh": (
        ("法国的首都是哪里？", "法国的首都是巴黎，它是塞纳河边的一座著名城市。"),
        ("怎么泡茶？", "先把水烧开，再把茶叶放进杯子里，然后等大约四分钟就可以喝了。"),
        ("星期一之后是星期几？", "星期一之后是星期二，星期二之后是星期三。"),
        ("你可以帮我写一封信吗？", "当然可以。请告诉我你想写给谁，还有你想说些什么。"),
        ("一年有几个月？", "一年有十二个月，从一月到十二月。"),
        ("谢谢你的帮助。", "不客气，我很高兴今天能够帮助你。"),
    ),
    "ja": (
        ("フランスの首都はどこですか。", "フランスの首都はパリです。セーヌ川のそばにある有名な都市です。"),
        ("お茶はどうやっていれますか。", "まずお湯を沸かして、カップにお茶を入れ、四分ほど待ってから飲みます。"),
        ("月曜日の次は何曜日ですか。", "月曜日の次は火曜日で、その次は水曜日です。"),
        ("手紙を書くのを手伝ってくれますか。", "もちろんです。誰に何を書きたいのか教えてください。"),
        ("一年は何か月ありますか。", "一年は一月から十二月まで、十二か月あります。"),
        ("手伝ってくれてありがとう。", "どういたしまして。お役に立ててうれしいです。"),
    ),
    "ru": (
        ("Какой город является столицей Франции?", "Столица Франции — Париж, большой город на берегах Сены."),
        ("Как заварить чай?", "Вскипятите воду, положите чай в чашку и подождите около четырёх минут."),
        ("Какой день идёт после понедельника?", "После понедельника идёт вторник, а затем среда."),
        ("Ты можешь помочь мне написать письмо?", "Конечно. Скажи, кому ты хочешь написать и о чём."),
        ("Сколько месяцев в году?", "В году двенадцать месяцев, с января по декабрь."),
        ("Большое спасибо за помощь.", "Пожалуйста, я рад, что смог тебе сегодня помочь."),
    ),
}  # fmt: skip
"""Language code -> questions and answers."""


def foreign_chat(rng: random.Random) -> tuple[str, list[Round]]:
    """A language and a conversation of three to five rounds in it."""
    language = rng.choice(sorted(CHATS))
    chosen = rng.sample(CHATS[language], rng.randint(3, 5))
    return language, [Round(question, answer) for question, answer in chosen]
