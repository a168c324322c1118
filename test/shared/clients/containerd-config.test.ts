import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { mergeContainerdConfig } from '../../../shared/clients/containerd-config.ts'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import { parseToml } from '../../../shared/clients/toml-statements.ts'

const begin = '# >>> outport hosts: written anew by each run; what is added to these tables stays'
const end = '# <<< outport hosts'

const registries = {
  mirrors: [{ registry: 'registry.example:5000', endpoints: ['https://edge:8081', 'https://far'] }],
  configs: [
    { host: 'edge:8081', ca: '/ca.crt', logIn: { username: 'robot$a+b', password: 'p"w' } },
    { host: 'far', skipVerify: true },
    { host: 'plain' },
  ],
}

const ours = (plugin: string) => `${begin}
[plugins."${plugin}".registry.mirrors."registry.example:5000"]
  endpoint = ["https://edge:8081", "https://far"]

[plugins."${plugin}".registry.configs."edge:8081".tls]
  ca_file = "/ca.crt"

[plugins."${plugin}".registry.configs."edge:8081".auth]
  username = "robot$a+b"
  password = "p\\"w"

[plugins."${plugin}".registry.configs."far".tls]
  insecure_skip_verify = true
${end}
`

function mergeTwice(existing: string): string {
  const text = mergeContainerdConfig(existing, registries)
  assert.equal(mergeContainerdConfig(text, registries), text)
  return text
}

test('a new file is of version 2, and has a table for each thing that is said', () => {
  assert.equal(mergeTwice(''), `version = 2\n\n${ours('io.containerd.grpc.v1.cri')}`)
})

for (const [version, plugin] of [
  ['', 'cri'],
  ['version = 1\n', 'cri'],
  ['version = 2\n', 'io.containerd.grpc.v1.cri'],
  ['version = 3\n', 'io.containerd.cri.v1.images'],
  ['version = 4\n', 'io.containerd.cri.v1.images'],
] as const) {
  test(`${version.trim() || 'no version'} has its tables under ${plugin}, behind what is there`, () => {
    const theirs = `${version}root = "/var/lib/containerd"\n\n[grpc]\n  uid = 0 # root\n`
    assert.equal(mergeTwice(theirs), `${theirs}\n${ours(plugin)}`)
  })
}

test('a mirror that others wrote is taken over, and the tables above it stay', () => {
  const table = 'plugins."io.containerd.grpc.v1.cri"'
  const theirs = `version = 2

[plugins]
  [${table}]
    sandbox_image = "pause"
    [${table}.registry]
      config_path = ""
      [${table}.registry.mirrors]
        [${table}.registry.mirrors."registry.example:5000"]
          endpoint = ["https://old"]
          rewrite = {}
        [${table}.registry.mirrors."docker.io"]
          endpoint = ["https://theirs"]
`
  const text = mergeTwice(theirs)
  assert.equal(
    text,
    `${theirs.replace(/ +\[[^\n]*5000"\]\n[^\n]*\n[^\n]*\n/, '')}
${ours('io.containerd.grpc.v1.cri').replace('far"]\n', 'far"]\n          rewrite = {}\n')}`,
  )
})

for (const [existing, message] of [
  ['version = 2\nx', /^line 2 is not TOML/],
  ['version = 5\n', /version 5; there are 1, 2, 3, 4/],
  [
    'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n',
    /^line 3 names a config_path.* leave out --legacy/,
  ],
  [
    'version = 3\n[plugins."io.containerd.cri.v1.images"]\nregistry.config_path = "/x"\n',
    /^line 3 names a config_path/,
  ],
  [
    'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nmirrors = {}\n',
    /cannot be taken over/,
  ],
] as const) {
  test(`${JSON.stringify(existing)} is an error`, () => {
    assert.throws(
      () => mergeContainerdConfig(existing, registries),
      (error) => error instanceof ClientFileError && message.test(error.message),
    )
  })
}

test('no value can leave its string', () => {
  const shapeOf = (text: string) =>
    parseToml(
      mergeContainerdConfig('', {
        mirrors: [{ registry: text, endpoints: [text] }],
        configs: [{ host: text, ca: text, logIn: { username: text, password: text } }],
      }),
    ).map((each) => (each.kind === 'pair' ? each.key : each.kind))
  const plain = shapeOf('a')
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.deepEqual(shapeOf(text), plain)
    }),
  )
})
