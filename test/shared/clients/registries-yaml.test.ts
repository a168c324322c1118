import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { parse } from 'yaml'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import { mergeRegistriesYaml, type K3sRegistries } from '../../../shared/clients/registries-yaml.ts'

const registries: K3sRegistries = {
  mirrors: [
    { registry: 'docker.io', endpoints: ['https://edge:8081', 'https://far'] },
    { registry: 'registry.example:5000', endpoints: ['https://edge:8081'] },
  ],
  configs: [
    { host: 'edge:8081', ca: '/ca.crt', logIn: { username: 'robot$a+b', password: '0123' } },
    { host: 'far', skipVerify: true },
    { host: 'plain' },
  ],
}

function mergeTwice(existing: string, wanted = registries): string {
  const text = mergeRegistriesYaml(existing, wanted)
  assert.equal(mergeRegistriesYaml(text, wanted), text)
  return text
}

test('a new file has mirrors in order, and what is needed to speak to each host', () => {
  assert.equal(
    mergeTwice(''),
    `mirrors:
  "docker.io":
    endpoint: ["https://edge:8081", "https://far"]
  "registry.example:5000":
    endpoint: ["https://edge:8081"]
configs:
  "edge:8081":
    tls:
      ca_file: "/ca.crt"
    auth:
      username: "robot$a+b"
      password: "0123"
  "far":
    tls:
      insecure_skip_verify: true
`,
  )
})

describe('in a file of others', () => {
  test('their registries, keys and comments stay', () => {
    const existing = `# by hand
mirrors:
  quay.io: # ours
    endpoint:
      - https://quay.mirror
  docker.io:
    endpoint: [https://old]
    rewrite: { "^(.*)$": "hub/$1" }
configs:
  # the edge
  edge:8081:
    auth: { username: bob, password: kept }
    tls: { ca_file: /old.crt }
  far:
    tls: { insecure_skip_verify: true, cert_file: /c }
`
    const text = mergeTwice(existing, {
      mirrors: [{ registry: 'docker.io', endpoints: ['https://edge:8081'] }],
      configs: [{ host: 'edge:8081' }, { host: 'far' }],
    })
    assert.deepEqual(parse(text), {
      mirrors: {
        'quay.io': { endpoint: ['https://quay.mirror'] },
        'docker.io': { endpoint: ['https://edge:8081'], rewrite: { '^(.*)$': 'hub/$1' } },
      },
      configs: {
        'edge:8081': {
          auth: { username: 'bob', password: 'kept' },
          tls: { ca_file: '/old.crt' },
        },
        far: { tls: { cert_file: '/c' } },
      },
    })
    for (const comment of ['# by hand\n', '# ours\n', '# the edge\n']) {
      assert.ok(text.includes(comment), comment)
    }
  })

  test('one that says the same stays as it is written', () => {
    const existing = 'mirrors: {   docker.io:   { endpoint: [ "https://a" ] } } # x'
    const wanted = { mirrors: [{ registry: 'docker.io', endpoints: ['https://a'] }], configs: [] }
    assert.equal(mergeRegistriesYaml(existing, wanted), existing)
  })

  test('comments alone, and names without anything, are places to write to', () => {
    assert.match(mergeTwice('# nothing yet\n'), /^# nothing yet\n[^]*mirrors:/)
    const text = mergeTwice('mirrors:\nconfigs: ~\nother: 1\n')
    assert.deepEqual((parse(text) as { other: number }).other, 1)
    assert.match(text, /endpoint/)
  })

  for (const [existing, message] of [
    ['mirrors: [', /^line \d+ is not YAML/],
    ['a: 1\na: 2\n', /^line 2 is not YAML/],
    ['a: 1\n---\nb: 1\n', /is not YAML/],
    ['- a\n', /not a YAML mapping/],
    ['mirrors: 1\n', /mirrors is not a mapping/],
    ['mirrors:\n  docker.io: []\n', /docker\.io is not a mapping/],
    ['x: &x {}\nconfigs: *x\n', /configs is not a mapping/],
  ] as const) {
    test(`${JSON.stringify(existing)} is an error`, () => {
      assert.throws(
        () => mergeRegistriesYaml(existing, registries),
        (error) => error instanceof ClientFileError && message.test(error.message),
      )
    })
  }
})

test('any text reads back the same, and nothing else with it', () => {
  // A name of letters alone that is one of ours would be written to twice.
  const text = fc.string({ unit: 'binary', minLength: 1 }).map((each) => `1${each.toWellFormed()}`)
  fc.assert(
    fc.property(text, text, (name, value) => {
      const written = mergeRegistriesYaml('', {
        mirrors: [{ registry: name, endpoints: [value] }],
        configs: [{ host: name, ca: value, logIn: { username: value, password: value } }],
      })
      const tls = { ca_file: value }
      const auth = { username: value, password: value }
      assert.deepEqual(parse(written), {
        mirrors: { [name]: { endpoint: [value] } },
        configs: { [name]: { tls, auth } },
      })
    }),
  )
})
