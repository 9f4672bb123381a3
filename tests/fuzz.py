"Files broken on purpose, the same for the same seed."
import csv
import io
import json
import random

VALUES = [None, True, False, 0, -1, 1, 3.5, -2.5, 1e30, 10**25, float('inf'), float('nan'), '', 'x', '\x1b[2K\n# whole: yes',
          '<script>x</script>', '\u202e', '\ud800', 'a'*50_000, [], {}, [[]], {'a': 1}, [1, 2, 3], '../../outside/secret.txt',
          '/etc/passwd', '\0', '$\\frac{1}{0}$', '=1+1', [0]*2000, 'fp', 'one2one', 1e-300, 2**31, .5]


def _places(value, found, way=()):
    "Every way into a value."
    found.append(way)
    if isinstance(value, dict):
        for k, v in value.items(): _places(v, found, (*way, k))
    elif isinstance(value, list):
        for i, v in enumerate(value[:30]): _places(v, found, (*way, i))
    return found


def broken_json(text, seed):
    "A JSON text with one to three values, keys or letters changed."
    dice, data = random.Random(seed), json.loads(text)
    if dice.random() < .08:
        at = dice.randrange(len(text))
        return text[:at] + dice.choice(['', '"', '{', '\0', ',', '9'*400]) + text[at+dice.randrange(3):]
    for _ in range(dice.randint(1, 3)):
        places = _places(data, [])
        *way, last = dice.choice(places[1:]) if len(places) > 1 else ('x',)
        block = data
        for k in way: block = block[k]
        what = dice.random()
        if what < .15: del block[last]
        elif what < .25 and isinstance(block, dict): block[dice.choice(['typo', '\x1b', 'AP', 'epoch'])] = block[last]
        elif what < .35 and isinstance(block, list): block.append(block[last])
        else: block[last] = dice.choice(VALUES)
        if not isinstance(data, (dict, list)) or not data: break
    return json.dumps(data)


def broken_csv(text, seed):
    "A table with one to three cells, rows or headers changed."
    dice, rows = random.Random(seed), list(csv.reader(io.StringIO(text)))
    for _ in range(dice.randint(1, 3)):
        row = dice.choice(rows)
        what = dice.random()
        if what < .1: rows.remove(row)
        elif what < .2: row.append('1')
        elif what < .3: row[:] = row[:-1]
        elif what < .4: rows.append(list(row))
        elif row: row[dice.randrange(len(row))] = str(dice.choice(VALUES))
        if not rows: break
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerows(rows)
    return out.getvalue() if dice.random() > .05 else text[:dice.randrange(len(text))]
