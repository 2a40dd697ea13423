"""What espeak-ng's voices say in languages other than the read corpora's: to train on, and others to be judged by."""

# Article 1 of the Universal Declaration of Human Rights and everyday sentences, by voice.
TRAINING = {
    "en-us": (
        "All human beings are born free and equal in dignity and rights.",
        "My mother bought a big bottle of apple juice and some bread.",
        "Please put the blue paper back before we leave the museum.",
    ),
    "de": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
        "Meine Mutter kaufte Butter, Brot und eine Flasche Apfelsaft.",
        "Bitte bringen Sie mir morgen früh die Zeitung und zwei Tassen Kaffee.",
    ),
    "fr": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
        "Ma mère a acheté du pain, du beurre et une bouteille de vin.",
        "Je voudrais partir demain matin avec mes amis pour la montagne.",
    ),
    "es": (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
        "Mi madre compró pan, mantequilla y una botella de vino.",
        "Por favor, abre la ventana porque hace mucho calor en esta habitación.",
    ),
    "it": (
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
        "Mia madre ha comprato il pane, il burro e una bottiglia di vino.",
        "Per favore, apri la finestra perché in questa stanza fa troppo caldo.",
    ),
    "pt-br": (
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
        "Minha mãe comprou pão, manteiga e uma garrafa de vinho.",
        "Por favor, abra a janela porque está muito quente neste quarto.",
    ),
    "pl": (
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
        "Moja mama kupiła chleb, masło i butelkę mleka.",
        "Proszę otworzyć okno, bo w tym pokoju jest bardzo gorąco.",
    ),
    "ru": (
        "Все люди рождаются свободными и равными в своём достоинстве и правах.",
        "Моя мама купила хлеб, масло и бутылку молока.",
        "Пожалуйста, открой окно, потому что в этой комнате очень жарко.",
    ),
    "cs": (
        "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
        "Moje maminka koupila chleba, máslo a láhev mléka.",
        "Prosím, otevři okno, protože v tomto pokoji je velké horko.",
    ),
    "tr": (
        "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
        "Annem ekmek, peynir ve bir şişe süt aldı.",
        "Lütfen pencereyi aç, çünkü bu oda çok sıcak.",
    ),
    "nl": (
        "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
        "Mijn moeder kocht brood, boter en een fles melk.",
        "Doe alsjeblieft het raam open, want het is hier erg warm.",
    ),
    "hi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        "मेरी माँ ने बाज़ार से रोटी, मक्खन और दूध खरीदा।",
        "कृपया खिड़की खोल दीजिए क्योंकि इस कमरे में बहुत गर्मी है।",
    ),
    "sv": (
        "Alla människor är födda fria och lika i värde och rättigheter.",
        "Min mamma köpte bröd, smör och en flaska mjölk.",
    ),
    "fi": (
        "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
        "Äitini osti leipää, voita ja pullon maitoa.",
    ),
    "el": (
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
        "Η μητέρα μου αγόρασε ψωμί, βούτυρο και γάλα.",
    ),
    "hu": (
        "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
        "Anyám kenyeret, vajat és egy üveg tejet vett.",
    ),
    "ro": (
        "Toate ființele umane se nasc libere și egale în demnitate și în drepturi.",
        "Mama a cumpărat pâine, unt și o sticlă de lapte.",
    ),
    "id": (
        "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak yang sama.",
        "Ibu saya membeli roti, mentega dan sebotol susu.",
    ),
    "ar": (
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
        "اشترت أمي الخبز والزبدة وزجاجة من الحليب.",
    ),
    "ja": (
        "すべてのにんげんは、うまれながらにしてじゆうであり、びょうどうである。",
        "はははパンとバターとぎゅうにゅうをかいました。",
    ),
    "ko": (
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
        "어머니가 빵과 버터와 우유를 샀습니다.",
    ),
    "uk": (
        "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
        "Моя мама купила хліб, масло і пляшку молока.",
    ),
    "vi": (
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
        "Mẹ tôi mua bánh mì, bơ và một chai sữa.",
    ),
}

# English and twelve others; none of these is trained on.
EVALUATION = {
    "en-us": (
        "The weather was beautiful when we arrived at the harbour.",
        "Nobody remembered the number of the apartment.",
        "Five people are waiting for the bus in front of the bank.",
    ),
    "de": (
        "Das Wetter war wunderschön, als wir am Hafen ankamen.",
        "Niemand wusste mehr, wie die Straße hieß.",
        "Fünf Leute warten vor dem Bahnhof auf den Bus.",
    ),
    "fr": (
        "Il faisait très beau quand nous sommes arrivés au port.",
        "Personne ne se souvenait du numéro de l'appartement.",
        "Cinq personnes attendent l'autobus devant la banque.",
    ),
    "es": (
        "Hacía muy buen tiempo cuando llegamos al puerto.",
        "Nadie recordaba el número del apartamento.",
        "Cinco personas esperan el autobús delante del banco.",
    ),
    "it": (
        "Il tempo era bellissimo quando siamo arrivati al porto.",
        "Nessuno ricordava il numero dell'appartamento.",
        "Cinque persone aspettano l'autobus davanti alla banca.",
    ),
    "pt-br": (
        "O tempo estava muito bonito quando chegamos ao porto.",
        "Ninguém lembrava o número do apartamento.",
        "Cinco pessoas esperam o ônibus em frente ao banco.",
    ),
    "pl": (
        "Pogoda była piękna, kiedy dotarliśmy do portu.",
        "Nikt nie pamiętał numeru mieszkania.",
        "Pięć osób czeka na autobus przed bankiem.",
    ),
    "ru": (
        "Погода была прекрасная, когда мы приехали в порт.",
        "Никто не помнил номер квартиры.",
        "Пять человек ждут автобус перед банком.",
    ),
    "cs": (
        "Když jsme dorazili do přístavu, bylo krásné počasí.",
        "Nikdo si nepamatoval číslo bytu.",
        "Pět lidí čeká před bankou na autobus.",
    ),
    "tr": (
        "Limana vardığımızda hava çok güzeldi.",
        "Hiç kimse dairenin numarasını hatırlamıyordu.",
        "Beş kişi bankanın önünde otobüs bekliyor.",
    ),
    "nl": (
        "Het weer was prachtig toen we in de haven aankwamen.",
        "Niemand wist nog het nummer van het appartement.",
        "Vijf mensen wachten voor de bank op de bus.",
    ),
    "hi": (
        "जब हम बंदरगाह पहुँचे तब मौसम बहुत सुंदर था।",
        "किसी को भी मकान का नंबर याद नहीं था।",
        "पाँच लोग बैंक के सामने बस का इंतज़ार कर रहे हैं।",
    ),
    "sv": (
        "Vädret var underbart när vi kom fram till hamnen.",
        "Ingen kom ihåg lägenhetens nummer.",
        "Fem personer väntar på bussen framför banken.",
    ),
}
