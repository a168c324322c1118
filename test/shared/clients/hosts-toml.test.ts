import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import {
  formatHostsToml,
  hostsTomlFolders,
  hostsTomlPath,
  mergeHostsToml,
  type HostsToml,
} from '../../../shared/clients/hosts-toml.ts'
import { parseToml } from '../../../shared/clients/toml-statements.ts'

test('mirrors come first, with what they may be asked, and the server last', () => {
  const text = formatHostsToml({
    server: 'https://registry.example',
    hosts: [
      { url: 'https://edge.example:8081', capabilities: ['pull', 'resolve'], ca: 'edge.crt' },
      { url: 'http://127.0.0.1:8082' },
    ],
  })
  assert.equal(
    text,
    `server = "https://registry.example"

[host."https://edge.example:8081"]
  capabilities = ["pull", "resolve"]
  ca = "edge.crt"

[host."http://127.0.0.1:8082"]
`,
  )
})

test("the server's own CA and client certificate stand at the top", () => {
  const text = formatHostsToml({
    server: 'https://registry.example',
    serverTls: { ca: 'ca.crt', client: { cert: 'client.cert', key: 'client.key' } },
  })
  assert.equal(
    text,
    `server = "https://registry.example"
ca = "ca.crt"
client = [["client.cert", "client.key"]]
`,
  )
})

test('that a certificate is not checked is written only where it is said', () => {
  const text = formatHostsToml({
    server: 'https://a',
    hosts: [{ url: 'https://b', skipVerify: true }, { url: 'https://c' }],
  })
  assert.equal(
    text,
    'server = "https://a"\n\n[host."https://b"]\n  skip_verify = true\n\n[host."https://c"]\n',
  )
})

test('no value can leave its string', () => {
  const shapeOf = (url: string, server: string, ca: string) =>
    parseToml(formatHostsToml({ server, serverTls: { ca }, hosts: [{ url, ca }] })).map((each) =>
      each.kind === 'pair' ? each.key : each.kind,
    )
  const plain = shapeOf('a', 'b', 'c')
  const text = fc.string({ unit: 'binary' })
  fc.assert(
    fc.property(text, text, text, (url, server, ca) => {
      assert.deepEqual(shapeOf(url, server, ca), plain)
    }),
    { examples: [['b"]\nskip_verify = true', 'https://a"\nskip_verify = true', 'c']] },
  )
})

test('the folder is the registry as clients type it, or the one that containerd looks for before it', () => {
  assert.equal(
    hostsTomlPath('registry.example:5000'),
    '/etc/containerd/certs.d/registry.example:5000/hosts.toml',
  )
  assert.deepEqual(hostsTomlFolders('registry.example:5000'), [
    'registry.example_5000_',
    'registry.example:5000',
  ])
  assert.deepEqual(hostsTomlFolders('docker.io'), ['docker.io'])
})

const begin = '# >>> outport hosts: written anew by each run; what is added to these tables stays'
const end = '# <<< outport hosts'

const capabilities = ['pull', 'resolve'] as const
const wanted = (...urls: readonly string[]): HostsToml => ({
  server: 'https://registry.example',
  hosts: urls.map((url) => ({ url, capabilities })),
})
const merge = (existing: string, hosts: HostsToml, keepsServer = false) =>
  mergeHostsToml(existing, hosts, { keepsServer })

/** Merges, and checks that a second time changes nothing. */
function mergeTwice(existing: string, hosts: HostsToml, keepsServer = false): string {
  const text = merge(existing, hosts, keepsServer)
  assert.equal(merge(text, hosts, keepsServer), text)
  return text
}

describe('in a file of others', () => {
  test('an empty one gets our lines between their marks', () => {
    assert.equal(
      mergeTwice('', wanted('https://near', 'https://far')),
      `${begin}
server = "https://registry.example"

[host."https://near"]
  capabilities = ["pull", "resolve"]

[host."https://far"]
  capabilities = ["pull", "resolve"]
${end}
`,
    )
  })

  test('their keys stay above ours, their hosts and comments below: the edges are tried first', () => {
    const existing = `# Bob's file
dial_timeout = "3s"
server = "https://old"   # goes: there is one server

# Bob's mirror
[host."https://bob"]
  capabilities = ["pull"] # only
  [host."https://bob".header]
    x-bob = ["1"]
`
    assert.equal(
      mergeTwice(existing, wanted('https://near')),
      `# Bob's file
dial_timeout = "3s"

${begin}
server = "https://registry.example"

[host."https://near"]
  capabilities = ["pull", "resolve"]
${end}

# Bob's mirror
[host."https://bob"]
  capabilities = ["pull"] # only
  [host."https://bob".header]
    x-bob = ["1"]
`,
    )
  })

  test('a server that others chose stays where ours is only the usual one', () => {
    const text = mergeTwice('server = "https://theirs"\n', wanted('https://near'), true)
    assert.match(text, /^server = "https:\/\/theirs"\n\n# >>>/)
    assert.doesNotMatch(text, /registry\.example/)
  })

  test('a host with the URL of an edge is taken over with its further keys, comments and tables', () => {
    const existing = `server = "https://registry.example"

# the edge downstairs
[host.'https://near']
  skip_verify = true
  capabilities = ["pull"]
  # it is slow
  dial_timeout = "9s"
  [host."https://near".header]
    x-site = ["a"]
[host."https://bob"]
`
    assert.equal(
      mergeTwice(existing, wanted('https://near')),
      `${begin}
server = "https://registry.example"

# the edge downstairs
[host."https://near"]
  capabilities = ["pull", "resolve"]
  # it is slow
  dial_timeout = "9s"
  [host."https://near".header]
    x-site = ["a"]
${end}

[host."https://bob"]
`,
    )
  })

  test('edges that are no longer wanted go, what was added to one that is stays, and order follows', () => {
    const first = merge('# kept\n', wanted('https://a', 'https://b'))
    const edited = first
      .replace('[host."https://b"]\n', '[host."https://b"]\n  dial_timeout = "1s"\n')
      .replace(`${end}\n`, `${end}\n\n# Bob's mirror below\n\n[host."https://bob"]\n`)
    assert.equal(
      mergeTwice(edited, wanted('https://c', 'https://b')),
      `# kept

${begin}
server = "https://registry.example"

[host."https://c"]
  capabilities = ["pull", "resolve"]

[host."https://b"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "1s"
${end}

# Bob's mirror below

[host."https://bob"]
`,
    )
  })

  test('a CA of ours goes with the option, one of others is never lost silently', () => {
    const hosts = [{ url: 'https://a', capabilities, ca: '/ca.crt' }]
    const withCa = { server: 'https://r', serverTls: { ca: '/ca.crt' }, hosts }
    const text = mergeTwice('', withCa)
    assert.equal(text.match(/ca = "\/ca\.crt"/g)?.length, 2)
    assert.doesNotMatch(mergeTwice(text, wanted('https://a')), /ca =/)
    const theirs = '\n[host."https://a"]\nca = "their.crt"\n'
    assert.throws(
      () => merge(theirs, wanted('https://a')),
      /line 3 gives https:\/\/a a ca of its own/,
    )
    assert.doesNotMatch(mergeTwice(theirs, withCa), /their/)
  })

  for (const [what, existing, message] of [
    ['no TOML', 'server = https://a', /^line 1 is not TOML/],
    ['a table in another form', 'host."https://a".skip_verify = true', /in another form than a/],
    ['a table in braces', 'host = {}', /in another form than a table with a \[header\]/],
    ['a mark that does not end', `${begin}\n`, /'# <<< outport hosts' is missing/],
    ['a mark that only ends', `a = 1\n${end}\n`, /^line 2 is misplaced/],
    ['a key behind ours', `${begin}\n[host."https://a"]\n${end}\nx = 1\n`, /^line 4 is misplaced/],
  ] as const) {
    test(`${what} is an error`, () => {
      assert.throws(
        () => merge(existing, wanted('https://a')),
        (error) => error instanceof ClientFileError && message.test(error.message),
      )
    })
  }

  test('whatever stands there stays, once', () => {
    const bare = fc.stringMatching(/^[a-z]{1,6}$/)
    const pair = fc
      .tuple(bare, fc.string({ unit: 'binary' }))
      .map(([key, value]) => `k-${key} = ${JSON.stringify(value.toWellFormed())}`)
      // JSON writes DEL as it is, TOML does not allow it.
      .map((line) => line.replaceAll('\u007f', ''))
    const pairs = fc.uniqueArray(pair, { maxLength: 3, selector: (line) => line.split(' ')[0] })
    // Right above the next table it would be about that one, and go with it.
    const said = ['', '# said', '']
    const table = fc.tuple(bare, pairs, fc.boolean()).map(([name, lines, isSpaced]) => ({
      name,
      text: [`[host."https://${name}"]`, ...lines, ...(isSpaced ? said : [])],
    }))
    const tables = fc.uniqueArray(table, { maxLength: 4, selector: ({ name }) => name })
    const edges = fc.uniqueArray(bare, { minLength: 1, maxLength: 3 })
    fc.assert(
      fc.property(pairs, tables, edges, edges, (root, others, before, now) => {
        const existing = [...root, ...others.flatMap(({ text }) => text)]
        const urls = (names: readonly string[]) => wanted(...names.map((each) => `https://${each}`))
        const text = mergeTwice(merge(existing.join('\n'), urls(before)), urls(now))
        const isKept = ({ name }: { name: string }) => now.includes(name) || !before.includes(name)
        const lines = text.split('\n')
        for (const line of [...root, ...others.filter(isKept).flatMap((each) => each.text)]) {
          assert.ok(lines.includes(line), line)
        }
        const headers = [...text.matchAll(/^\[host\."https:\/\/(\w+)"\]/gm)].map(([, name]) => name)
        assert.deepEqual(headers.slice(0, now.length), now)
      }),
    )
  })
})
