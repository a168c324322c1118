import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseChallenges } from '../../../shared/upstream/challenge.ts'

const cases: readonly [header: string, expected: [string, Record<string, string>][]][] = [
  ['', []],
  ['Basic', [['basic', {}]]],
  ['Basic realm="a b"', [['basic', { realm: 'a b' }]]],
  [
    'Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"',
    [
      [
        'bearer',
        {
          realm: 'https://auth.example/token',
          service: 'reg',
          scope: 'repository:a/b:pull,push',
        },
      ],
    ],
  ],
  [
    'BEARER Realm=https://x/t , SERVICE = reg',
    [['bearer', { realm: 'https://x/t', service: 'reg' }]],
  ],
  ['Bearer realm="a\\"b\\\\c"', [['bearer', { realm: 'a"b\\c' }]]],
  [
    'Basic realm="x", Bearer realm="y",service="z"',
    [
      ['basic', { realm: 'x' }],
      ['bearer', { realm: 'y', service: 'z' }],
    ],
  ],
  [
    'Negotiate, Basic realm="x"',
    [
      ['negotiate', {}],
      ['basic', { realm: 'x' }],
    ],
  ],
]

for (const [header, expected] of cases) {
  test(`challenge ${header || '(empty)'}`, () => {
    const seen = parseChallenges(header).map(({ scheme, parameters }) => [
      scheme,
      Object.fromEntries(parameters),
    ])
    assert.deepEqual(seen, expected)
  })
}

test('whatever a header says, reading it ends and does not throw', () => {
  const pieces = fc.constantFrom('Bearer', ' ', ',', '=', '"', '\\', 'realm', 'x', '\t', 'é')
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 40 }), (parts) => {
      parseChallenges(parts.join(''))
    }),
  )
})

test('a quoted value of any content comes back as it was', () => {
  fc.assert(
    fc.property(fc.string(), (value) => {
      const quoted = value.replace(/[\r\n\u2028\u2029]/g, '')
      const header = `Bearer realm="${quoted.replace(/["\\]/g, '\\$&')}",service=x`
      assert.equal(parseChallenges(header)[0]?.parameters.get('realm'), quoted)
    }),
  )
})
