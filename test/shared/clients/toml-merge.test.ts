import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import { mergeToml, type TomlMerge } from '../../../shared/clients/toml-merge.ts'

/** Parts of files, some of which cannot stand beside others. */
const parts = [
  ...[
    '# said\n',
    '\n',
    '\n',
    'k = 1\n',
    'l = [\n  "[t.a]",\n]\n',
    'text = """\n[t.a]\nours = 2\n"""\n',
  ],
  ...['[t.a]\n', '[t."b"]\n', '[t]\n', '[t.a.below]\n', '[t.b.below]\n', '[other]\n'],
  ...['ours = "theirs"\n', 'mine = 1\n', '# >>> outport hosts\n', '# <<< outport hosts\n'],
  ...['[[list]]\n', 'name = "x"\n', '[[list.member]]\n', '[list.more]\n', '# the last line'],
]

const merges: Readonly<Record<string, Omit<TomlMerge, 'existing'>>> = {
  'tables that come first': {
    ours: 'mine = 2\n\n[t.c]\nours = 1\n\n[t.a]\nours = 2\n',
    keys: ['mine', 'ours'],
    place: 'first',
  },
  'tables that come last': { ours: '[t.a]\nours = 1\n', keys: ['ours'], place: 'last' },
  'elements of an array': {
    ours: '[[list]]\nname = "x"\n[[list.member]]\nours = 1\n',
    keys: ['name', 'ours'],
    place: 'last',
    nameOf: ({ body }) =>
      body.flatMap((each) =>
        each.kind === 'pair' && each.key[0] === 'name' ? [each.value] : [],
      )[0],
  },
}

function tryMerge(merge: TomlMerge): string | undefined {
  try {
    return mergeToml(merge)
  } catch (error) {
    assert.ok(error instanceof ClientFileError, String(error))
    assert.doesNotMatch(error.message, /\n/)
    return undefined
  }
}

for (const [what, merge] of Object.entries(merges)) {
  test(`${what}: a second time changes nothing, and the lines of others stay`, () => {
    const document = fc
      .array(fc.constantFrom(...parts), { maxLength: 14 })
      .map((each) => each.join(''))
    fc.assert(
      fc.property(document, (existing) => {
        const text = tryMerge({ ...merge, existing })
        if (text === undefined) return
        assert.equal(mergeToml({ ...merge, existing: text }), text)
        // Between the marks are lines of an earlier run; the members of a list go with its element.
        if (existing.includes('outport') || existing.includes('[[list.member]]')) return
        const lines = text.split('\n')
        for (const line of existing.split('\n')) {
          if (/^(?:mine|name) =|^ours = "theirs"|^\[t\."b"\]$/.test(line)) continue
          assert.ok(lines.includes(line), `${line}\nis not in\n${text}`)
        }
      }),
      { numRuns: 500 },
    )
  })
}

test('what others named by a key of theirs wins where it is said to', () => {
  const merge: TomlMerge = {
    existing: 'mine = "theirs"\n',
    ours: 'mine = 1\n\n[t]\n',
    keys: ['mine'],
    place: 'first',
  }
  assert.doesNotMatch(mergeToml(merge), /theirs/)
  const text = mergeToml({ ...merge, yielding: ['mine'] })
  assert.match(text, /^mine = "theirs"\n/)
  assert.equal(text.match(/mine/g)?.length, 1)
  assert.equal(mergeToml({ ...merge, existing: text, yielding: ['mine'] }), text)
})
