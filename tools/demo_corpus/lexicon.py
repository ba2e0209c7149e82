"""The words of the generated English-German corpus, as tables of text.

One word a line, so that they can be read and extended by someone who knows the two languages and no Python.
What is regular is left to ``morphology``; what is irregular is written down.
"""

from __future__ import annotations

# english[/plural]: article German[/oblique], plural | kinds
NOUNS = """
man/men: der Mann, Männer | person he
doctor: der Arzt, Ärzte | person he
teacher: der Lehrer, Lehrer | person he
neighbour: der Nachbar/Nachbarn, Nachbarn | person he
student: der Student/Studenten, Studenten | person he
colleague: der Kollege/Kollegen, Kollegen | person he
friend: der Freund, Freunde | person he
customer: der Kunde/Kunden, Kunden | person he
farmer: der Bauer/Bauern, Bauern | person he
guest: der Gast, Gäste | person he
cook: der Koch, Köche | person he
gardener: der Gärtner, Gärtner | person he
boy: der Junge/Jungen, Jungen | person he
woman/women: die Frau, Frauen | person she
nurse: die Krankenschwester, Krankenschwestern | person she
waitress: die Kellnerin, Kellnerinnen | person she
actress: die Schauspielerin, Schauspielerinnen | person she
girl: das Mädchen, Mädchen | person
child/children: das Kind, Kinder | person
father: der Vater, Väter | family he
brother: der Bruder, Brüder | family he
uncle: der Onkel, Onkel | family he
grandfather: der Großvater, Großväter | family he
son: der Sohn, Söhne | family he
mother: die Mutter, Mütter | family she
sister: die Schwester, Schwestern | family she
aunt: die Tante, Tanten | family she
grandmother: die Großmutter, Großmütter | family she
daughter: die Tochter, Töchter | family she
dog: der Hund, Hunde | animal
cat: die Katze, Katzen | animal
horse: das Pferd, Pferde | animal
bird: der Vogel, Vögel | animal
cow: die Kuh, Kühe | animal
apple: der Apfel, Äpfel | food
egg: das Ei, Eier | food
banana: die Banane, Bananen | food
tomato/tomatoes: die Tomate, Tomaten | food
sausage: die Wurst, Würste | food
pizza: die Pizza, Pizzas | food dish
soup: die Suppe, Suppen | food dish cooked
salad: der Salat, Salate | food dish
cake: der Kuchen, Kuchen | food dish baked
bread: das Brot, | food mass baked
cheese: der Käse, | food mass
meat: das Fleisch, | food mass cooked
rice: der Reis, | food mass cooked
coffee: der Kaffee, | drink mass
tea: der Tee, | drink mass
milk: die Milch, | drink mass
water: das Wasser, | drink mass
juice: der Saft, | drink mass
beer: das Bier, | drink mass
wine: der Wein, | drink mass
book: das Buch, Bücher | text flat
letter: der Brief, Briefe | text flat
report: der Bericht, Berichte | text flat
article: der Artikel, Artikel | text flat
newspaper: die Zeitung, Zeitungen | text flat
story: die Geschichte, Geschichten | text tale flat
poem: das Gedicht, Gedichte | text flat
coat: der Mantel, Mäntel | clothes flat
hat: der Hut, Hüte | clothes flat
sweater: der Pullover, Pullover | clothes flat
jacket: die Jacke, Jacken | clothes flat
shirt: das Hemd, Hemden | clothes flat
dress: das Kleid, Kleider | clothes flat
shoe: der Schuh, Schuhe | clothes
table: der Tisch, Tische | furniture surface
chair: der Stuhl, Stühle | furniture surface
cupboard: der Schrank, Schränke | furniture
mirror: der Spiegel, Spiegel | furniture
bed: das Bett, Betten | furniture surface
sofa: das Sofa, Sofas | furniture surface
shelf/shelves: das Regal, Regale | furniture surface
lamp: die Lampe, Lampen | furniture appliance
computer: der Computer, Computer | device appliance
television: der Fernseher, Fernseher | device appliance
radio: das Radio, Radios | device appliance
machine: die Maschine, Maschinen | device appliance
clock: die Uhr, Uhren | device small
camera: die Kamera, Kameras | device small
phone: das Telefon, Telefone | device small
key: der Schlüssel, Schlüssel | thing small flat
umbrella: der Regenschirm, Regenschirme | thing small flat
ring: der Ring, Ringe | thing small flat
city map: der Stadtplan, Stadtpläne | thing small flat
knife/knives: das Messer, Messer | thing small flat
picture: das Bild, Bilder | thing small flat
bag: die Tasche, Taschen | thing small luggage upright
suitcase: der Koffer, Koffer | thing luggage opening upright
box: die Kiste, Kisten | thing luggage opening upright
bottle: die Flasche, Flaschen | thing small opening upright
glass: das Glas, Gläser | thing small upright
cup: die Tasse, Tassen | thing small upright
ball: der Ball, Bälle | thing small
present: das Geschenk, Geschenke | thing small flat
flower: die Blume, Blumen | thing plant
tree: der Baum, Bäume | plant
door: die Tür, Türen | opening
window: das Fenster, Fenster | opening
car: das Auto, Autos | vehicle
bicycle: das Fahrrad, Fahrräder | vehicle
boat: das Boot, Boote | vehicle
truck: der Lastwagen, Lastwagen | vehicle
bus: der Bus, Busse | transport
train: der Zug, Züge | transport
house: das Haus, Häuser | building
apartment: die Wohnung, Wohnungen | building
garage: die Garage, Garagen | building
concert: das Konzert, Konzerte | event
meeting: die Besprechung, Besprechungen | event
course: der Kurs, Kurse | event
party: die Party, Partys | event
trip: die Reise, Reisen | event
"""

# The same, and after the kinds: English and German preposition of being there, German one of going there.
PLACES = """
kitchen: die Küche, Küchen | room | in in in
cellar: der Keller, Keller | room | in in in
office: das Büro, Büros | room work | in in in
garden: der Garten, Gärten | outside | in in in
park: der Park, Parks | outside | in in in
forest: der Wald, Wälder | outside | in in in
beach/beaches: der Strand, Strände | outside | on an an
restaurant: das Restaurant, Restaurants | meal | in in in
café: das Café, Cafés | meal | in in in
hotel: das Hotel, Hotels | meal work | in in in
supermarket: der Supermarkt, Supermärkte | trade | in in in
market: der Markt, Märkte | trade | at auf auf
shop: der Laden, Läden | trade work | in in in
library: die Bibliothek, Bibliotheken | quiet work | in in in
school: die Schule, Schulen | quiet work | in in in
museum/museums: das Museum, Museen | quiet work | in in in
theatre: das Theater, Theater | public work | in in in
cinema: das Kino, Kinos | public | in in in
church: die Kirche, Kirchen | public | in in in
hospital: das Krankenhaus, Krankenhäuser | work | in in in
station: der Bahnhof, Bahnhöfe | public | at an zu
airport: der Flughafen, Flughäfen | public work | at an zu
"""

# Combining form with its linking element: the nouns that it is put before.
COMPOUNDS = """
kitchen Küchen: table chair lamp door window cupboard clock shelf knife
office Büro: table chair lamp door window cupboard clock shelf computer
garden Garten: table chair lamp party house flower
bedroom Schlafzimmer: lamp door window cupboard mirror
living room Wohnzimmer: table lamp door window cupboard clock
cellar Keller: door window lamp key
wooden Holz: table chair bed shelf box house boat
leather Leder: jacket bag shoe coat sofa
winter Winter: coat jacket shoe dress
summer Sommer: coat jacket shoe dress hat party
sports Sport: shoe bag teacher
school Schul: book bus bag concert
city Stadt: bus park library museum theatre
village Dorf: church school shop teacher doctor
car Auto: key door radio
house Haus: key
coffee Kaffee: cup machine
tea Tee: cup
wine Wein: glass bottle
beer Bier: glass bottle
water Wasser: glass bottle
milk Milch: bottle
bread Brot: knife
apple Apfel: cake juice tree
cherry Kirsch: cake juice tree
orange Orangen: juice
chocolate Schokoladen: cake
tomato Tomaten: soup salad juice
potato Kartoffel: soup salad
onion Zwiebel: soup
history Geschichts: book
picture Bilder: book
travel Reise: report bag
newspaper Zeitungs: article report
love Liebes: letter story poem
birthday Geburtstags: cake present party
Christmas Weihnachts: present party story
piano Klavier: teacher
music Musik: teacher
language Sprach: course
dance Tanz: course
cooking Koch: course
"""

# English forms | German forms | perfect | what it governs | kinds of objects | kinds of places.
# A plus before an English adverb or after a German prefix marks what is separated.
VERBS = """
buy/bought/bought | kaufen | hat gekauft | acc | food drink text clothes device furniture small | trade city
sell/sold/sold | verkaufen | hat verkauft | acc | vehicle furniture device animal building | city
find/found/found | finden | hat gefunden | acc | small animal luggage | outside public
look for | suchen | hat gesucht | acc | small person animal luggage | outside public
need | brauchen | hat gebraucht | acc state | clothes device furniture vehicle |
forget/forgot/forgotten/forgetting | vergessen/vergisst/vergisst | hat vergessen | acc | small | public meal
lose/lost/lost | verlieren | hat verloren | acc | small luggage | outside public
repair | reparieren | hat repariert | acc | vehicle device furniture |
clean | putzen | hat geputzt | acc | furniture opening |
wash | waschen/wäschst/wäscht | hat gewaschen | acc | vehicle clothes animal |
see/saw/seen | sehen/siehst/sieht | hat gesehen | acc state | person animal vehicle | outside public city
visit | besuchen | hat besucht | acc | person family | city
meet/met/met | treffen/triffst/trifft | hat getroffen | acc | person family | meal outside public city
greet | begrüßen | hat begrüßt | acc | person | public
know/knew/known | kennen | hat gekannt | acc state | person |
love | lieben | hat geliebt | acc state | person animal |
draw/drew/drawn | zeichnen | hat gezeichnet | acc | plant animal building | outside
read/read/read | lesen/liest/liest | hat gelesen | acc | text | quiet outside meal
write/wrote/written | schreiben | hat geschrieben | acc | text | quiet meal
translate | übersetzen | hat übersetzt | acc | text |
eat/ate/eaten | essen/isst/isst | hat gegessen | acc | food | meal home
drink/drank/drunk | trinken | hat getrunken | acc | drink | meal home
cook | kochen | hat gekocht | acc | cooked | home
bake | backen | hat gebacken | acc | baked | home
order | bestellen | hat bestellt | acc | dish drink | meal
carry | tragen/trägst/trägt | hat getragen | acc | luggage |
build/built/built | bauen | hat gebaut | acc | building surface |
rent | mieten | hat gemietet | acc | vehicle building | city
steal/stole/stolen | stehlen/stiehlst/stiehlt | hat gestohlen | acc | vehicle small | city
use | benutzen | hat benutzt | acc | device |
plan/planned/planned/planning | planen | hat geplant | acc | event |
open | auf+machen | hat aufgemacht | acc | opening |
close | zu+machen | hat zugemacht | acc | opening |
call | an+rufen | hat angerufen | acc | person family |
pick+up | ab+holen | hat abgeholt | acc | person family luggage | public
put/put/put/putting+on | an+ziehen | hat angezogen | acc | clothes |
take/took/taken+off | aus+ziehen | hat ausgezogen | acc | clothes |
turn+on | ein+schalten | hat eingeschaltet | acc | appliance |
turn+off | aus+schalten | hat ausgeschaltet | acc | appliance |
invite | ein+laden/lädst/lädt | hat eingeladen | acc | person family |
bring/brought/brought+back | zurück+bringen | hat zurückgebracht | acc | text device small |
tidy+up | auf+räumen | hat aufgeräumt | acc | room |
throw/threw/thrown+away | weg+werfen/wirfst/wirft | hat weggeworfen | acc | text clothes furniture |
prepare | vor+bereiten | hat vorbereitet | acc | event |
cancel/cancelled/cancelled/cancelling | ab+sagen | hat abgesagt | acc | event |
help | helfen/hilfst/hilft | hat geholfen | dat | person family | home work
thank | danken | hat gedankt | dat | person family |
answer | antworten | hat geantwortet | dat | person family |
follow | folgen | ist gefolgt | dat | person animal |
trust | vertrauen | hat vertraut | dat state | person family |
listen to | zu+hören | hat zugehört | dat | person family |
give/gave/given | geben/gibst/gibt | hat gegeben | dat acc | small text clothes |
show/showed/shown | zeigen | hat gezeigt | dat acc | small text vehicle animal |
send/sent/sent | schicken | hat geschickt | dat acc | text small |
lend/lent/lent | leihen | hat geliehen | dat acc | small text vehicle clothes |
tell/told/told | erzählen | hat erzählt | dat acc | tale |
wait for | warten | hat gewartet | auf acc | person family transport | public
talk to | sprechen/sprichst/spricht | hat gesprochen | mit dat | person family | meal public
think/thought/thought of | denken | hat gedacht | an acc | person family event |
dream of | träumen | hat geträumt | von dat | animal building event |
laugh at | lachen | hat gelacht | über acc | person tale |
look forward to | sich freuen | hat gefreut | auf acc | event |
remember | sich erinnern | hat erinnert | an acc state | person event |
take/took/taken care of | sich kümmern | hat gekümmert | um acc | animal person plant |
take/took/taken part in | teil+nehmen/nimmst/nimmt | hat teilgenommen | an dat | event |
sleep/slept/slept | schlafen/schläfst/schläft | hat geschlafen | | animal | home outside
work | arbeiten | hat gearbeitet | | | home work city
laugh | lachen | hat gelacht | | | public meal
sing/sang/sung | singen | hat gesungen | | | public outside
dance | tanzen | hat getanzt | | | outside home
get/got/got/getting up | auf+stehen | ist aufgestanden | | |
wake/woke/woken up | auf+wachen | ist aufgewacht | | animal |
fall/fell/fallen asleep | ein+schlafen/schläfst/schläft | ist eingeschlafen | | animal |
arrive | an+kommen | ist angekommen | | | city public
come/came/come back | zurück+kommen | ist zurückgekommen | | animal |
go/went/gone shopping | ein+kaufen | hat eingekauft | | | city trade
watch television | fern+sehen/siehst/sieht | hat ferngesehen | | | home
rest | sich aus+ruhen | hat ausgeruht | | | outside home
go/went/gone | gehen | ist gegangen | direction | local |
run/ran/run/running | laufen/läufst/läuft | ist gelaufen | direction | local |
drive/drove/driven | fahren/fährst/fährt | ist gefahren | direction | city |
travel/travelled/travelled/travelling | reisen | ist gereist | direction | city |
fly/flew/flown | fliegen | ist geflogen | direction | city |
"""

# English: German of the adjectives that each kind of noun takes.
ADJECTIVES = """
person: old alt, young jung, friendly freundlich, clever klug, famous berühmt, rich reich, polite höflich
family: old alt, young jung, clever klug, rich reich
animal: small klein, big groß, young jung, old alt, black schwarz, brown braun, white weiß, hungry hungrig
food: fresh frisch, cold kalt, warm warm, delicious lecker, cheap billig
drink: cold kalt, hot heiß, good gut
text: long lang, short kurz, interesting interessant, boring langweilig, important wichtig, old alt
clothes: new neu, old alt, expensive teuer, cheap billig, beautiful schön, warm warm
furniture: new neu, old alt, big groß, small klein, expensive teuer, beautiful schön
device: new neu, old alt, expensive teuer, cheap billig, modern modern
thing: new neu, old alt, small klein, heavy schwer, expensive teuer, beautiful schön
plant: big groß, small klein, beautiful schön
opening: big groß, small klein, old alt
vehicle: new neu, old alt, fast schnell, expensive teuer, cheap billig
transport: late spät, new neu, old alt
building: big groß, small klein, old alt, modern modern, expensive teuer, quiet ruhig
event: long lang, short kurz, important wichtig, interesting interessant
room: big groß, small klein, old alt, warm warm
outside: big groß, small klein, quiet ruhig, beautiful schön
meal: old alt, new neu, small klein, expensive teuer
trade: new neu, big groß, small klein
quiet: old alt, new neu, famous berühmt
public: old alt, new neu, modern modern
work: new neu, modern modern
"""

COLOURS = (("red", "rot"), ("blue", "blau"), ("green", "grün"), ("yellow", "gelb"), ("white", "weiß"),
           ("black", "schwarz"), ("brown", "braun"), ("grey", "grau"))  # fmt: skip
COLOURED = ("clothes", "furniture", "vehicle")

MOODS = (("tired", "müde"), ("hungry", "hungrig"), ("sick", "krank"), ("happy", "glücklich"),
         ("sad", "traurig"), ("angry", "wütend"), ("nervous", "nervös"), ("thirsty", "durstig"))  # fmt: skip
COMPARATIVES = {
    "person": (("older", "älter"), ("younger", "jünger"), ("taller", "größer"), ("stronger", "stärker"),
               ("more polite", "höflicher"), ("friendlier", "freundlicher")),
    "thing": (("bigger", "größer"), ("smaller", "kleiner"), ("older", "älter"), ("newer", "neuer"),
              ("more expensive", "teurer"), ("cheaper", "billiger"), ("more beautiful", "schöner")),
}  # fmt: skip

# English: masculine, feminine; German leaves out the article after "is".
PROFESSIONS = (("a teacher", "Lehrer", "Lehrerin"), ("a doctor", "Arzt", "Ärztin"), ("a cook", "Koch", "Köchin"),
               ("an engineer", "Ingenieur", "Ingenieurin"), ("a lawyer", "Anwalt", "Anwältin"),
               ("a gardener", "Gärtner", "Gärtnerin"), ("an artist", "Künstler", "Künstlerin"))  # fmt: skip

NAMES = (("Anna", "she"), ("Maria", "she"), ("Emma", "she"), ("Julia", "she"), ("Laura", "she"), ("Paul", "he"),
         ("Peter", "he"), ("Martin", "he"), ("Daniel", "he"), ("Stefan", "he"), ("Karl", "he"))  # fmt: skip
SURNAMES = ("Müller", "Schmidt", "Weber", "Fischer", "Becker")
CITIES = (("Berlin", "Berlin"), ("Hamburg", "Hamburg"), ("Munich", "München"), ("Cologne", "Köln"),
          ("Vienna", "Wien"), ("Zurich", "Zürich"), ("Leipzig", "Leipzig"), ("Rome", "Rom"),
          ("Paris", "Paris"), ("London", "London"))  # fmt: skip
WEEKDAYS = (("Monday", "Montag"), ("Tuesday", "Dienstag"), ("Wednesday", "Mittwoch"), ("Thursday", "Donnerstag"),
            ("Friday", "Freitag"), ("Saturday", "Samstag"), ("Sunday", "Sonntag"))  # fmt: skip
MONTHS = (("January", "Januar"), ("February", "Februar"), ("March", "März"), ("April", "April"), ("May", "Mai"),
          ("June", "Juni"), ("July", "Juli"), ("August", "August"), ("September", "September"),
          ("October", "Oktober"), ("November", "November"), ("December", "Dezember"))  # fmt: skip
