import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { parse } from 'yaml'
import { UsageError } from '../../../../deploy/command-line.ts'
import {
  parseMirroring,
  readLogIn,
  type HostsFlags,
} from '../../../../deploy/commands/hosts/options.ts'
import { mergeContainerdConfig } from '../../../../shared/clients/containerd-config.ts'
import { mergeDaemonJson } from '../../../../shared/clients/daemon-json.ts'
import { hostsTomlPath, mergeHostsToml } from '../../../../shared/clients/hosts-toml.ts'
import {
  criRegistriesFor,
  dockerDaemonFor,
  hostsTomlFor,
  k3sRegistriesFor,
  podmanRegistriesFor,
} from '../../../../shared/clients/mirroring.ts'
import { mergeRegistriesConf } from '../../../../shared/clients/registries-conf.ts'
import { mergeRegistriesYaml } from '../../../../shared/clients/registries-yaml.ts'
import { tempFolder } from '../../../kit/temp.ts'

const given: HostsFlags = {
  edge: ['https://edge.example:8081'],
  primary: 'https://registry.example',
  registry: [],
  ca: undefined,
  'plain-http': false,
  'skip-verify': false,
  near: false,
}

test('URLs and names are kept as images and clients spell them', () => {
  const flags = {
    ...given,
    edge: ['HTTPS://Edge.Example:8081/', 'https://[2001:DB8::1]', 'https://edge.example:8081'],
    primary: 'http://10.0.0.1:80',
    registry: ['index.docker.io', 'docker.io', '10.0.0.1:80', 'Quay.io'],
    'plain-http': true,
  }
  assert.deepEqual(parseMirroring('k3s', flags), {
    edges: [
      { url: 'https://edge.example:8081', host: 'edge.example:8081' },
      { url: 'https://[2001:db8::1]', host: '[2001:db8::1]' },
    ],
    primary: { url: 'http://10.0.0.1:80', host: '10.0.0.1:80' },
    registries: ['docker.io', 'quay.io'],
    ca: undefined,
    skipVerify: false,
  })
})

for (const [flags, message] of [
  [{ edge: [] }, /^hosts podman needs an edge: --edge/],
  [
    { primary: undefined },
    /^hosts podman needs to know whose images: --primary URL, or --registry/,
  ],
  [
    { edge: ['http://edge'] },
    /^--edge http:\/\/edge is plain http, which is written only by --plain-http/,
  ],
  [{ primary: 'http://a' }, /^--primary http:\/\/a is plain http/],
  [
    { edge: ['edge:8081'] },
    /^--edge must be https:\/\/HOST\[:PORT\] without a path, not 'edge:8081'/,
  ],
  [{ edge: ['https://edge/v2'] }, /without a path/],
  [{ edge: ['https://u:p@edge'] }, /without a path/],
  [{ edge: ['https://edge?x'] }, /without a path/],
  [{ edge: ['ftp://edge'] }, /without a path/],
  [{ edge: ['https://edge:0'] }, /^--edge must be HOST:PORT/],
  [{ edge: ['https://edge:99999'] }, /HOST:PORT/],
  [{ edge: ['https://a"b'] }, /^--edge: 'a"b' is not a host name/],
  [{ edge: ['https://*.example'] }, /not one host/],
  [{ edge: ['https://edge\nskip_verify'] }, /^--edge holds a character .* "https:\/\/edge\\nskip/],
  [{ registry: ['..'] }, /^--registry/],
  [{ registry: ['a/b'] }, /^--registry/],
  [{ registry: ['doc\u202eker.io'] }, /^--registry holds a character .*\\u202e/],
  [{ ca: 'a\nb' }, /^--ca holds a character/],
] as const) {
  test(`what is wrong is refused: ${message.source}`, () => {
    assert.throws(
      () => parseMirroring('podman', { ...given, ...flags }),
      (error) => error instanceof UsageError && message.test(error.message),
    )
  })
}

test('a log-in needs both of its halves, on one line each', async (t) => {
  const file = join(await tempFolder(t), 'password')
  await writeFile(file, ' secret\n')
  const logIn = { username: 'robot$a+b', 'password-file': file }
  assert.deepEqual(await readLogIn(logIn), { username: 'robot$a+b', password: 'secret' })
  assert.equal(await readLogIn({ username: undefined, 'password-file': undefined }), undefined)
  await assert.rejects(readLogIn({ ...logIn, username: undefined }), /go together/)
  await assert.rejects(readLogIn({ ...logIn, username: 'a"\nb' }), UsageError)
  await writeFile(file, 'a\nb')
  await assert.rejects(readLogIn(logIn), /one password on one line/)
})

test('whatever is given, it is refused in one line or written as nothing but itself', () => {
  const nasty = fc.constantFrom(
    ...[
      '"',
      "'",
      '\n',
      '\r',
      '\\',
      '\0',
      ' ',
      '#',
      ']',
      '}',
      ': ',
      '/',
      '..',
      '\u2028',
      '\u0085',
      '😀',
    ],
    ...['"\nskip_verify = true\n"', '"]\n[host."http://evil"', '\n  insecure: true', '{', '%', '@'],
  )
  const host = fc
    .tuple(fc.domain(), fc.option(fc.integer({ min: 1, max: 65535 }), { nil: undefined }))
    .map(([name, port]) => (port === undefined ? name : `${name}:${port}`))
  const bad = fc.oneof(
    fc.tuple(host, nasty, host).map((words) => words.join('')),
    fc.string({ unit: 'binary' }),
  )
  const word = fc.oneof({ weight: 4, arbitrary: host }, { weight: 1, arbitrary: bad })
  const url = fc.oneof(
    ...['https://', 'http://'].map((scheme) => ({
      weight: 5,
      arbitrary: word.map((each) => scheme + each),
    })),
    { weight: 1, arbitrary: fc.webUrl() },
    { weight: 1, arbitrary: word },
  )
  /** What is written, with each of its values away. */
  const shapeOf = (flags: HostsFlags) => {
    const mirroring = parseMirroring('k3s', flags)
    const [first] = hostsTomlFor({ ...mirroring, registries: [] })
    assert.ok(first)
    const path = hostsTomlPath(first.registry, '/r')
    assert.equal(path.split('/').length, 4)
    assert.ok(!['.', '..', ''].includes(first.registry))
    const yaml = mergeRegistriesYaml('', k3sRegistriesFor(mirroring))
    const daemon = dockerDaemonFor(mirroring)
    const json = mergeDaemonJson('', daemon, [])
    assert.deepEqual((JSON.parse(json) as Record<string, unknown>)['registry-mirrors'], [
      ...(daemon.registryMirrors ?? []),
    ])
    const keys = Object.keys(parse(yaml) as object)
    assert.ok(keys.every((key) => ['mirrors', 'configs'].includes(key)))
    const texts = [
      mergeHostsToml('', first.hosts, first),
      mergeContainerdConfig('', criRegistriesFor(mirroring)),
      mergeRegistriesConf('', podmanRegistriesFor(mirroring)),
      yaml,
      json,
    ]
    return texts.map((text) => text.replaceAll(/"(?:[^"\\\n]|\\.)*"/g, '""'))
  }
  const base = { ...given, ca: '/ca.crt', 'plain-http': true }
  fc.assert(
    fc.property(url, url, fc.oneof(word, bad), (edge, primary, ca) => {
      const flags = { ...base, edge: [edge], primary, ca: ca === '' ? '/ca.crt' : ca }
      let shape: readonly string[]
      try {
        shape = shapeOf(flags)
      } catch (error) {
        assert.ok(error instanceof UsageError, String(error))
        assert.doesNotMatch(error.message, /\p{Cc}/u)
        return
      }
      const schemeOf = (text: string) => (/^https/i.test(text) ? 'https' : 'http')
      const { edges, primary: registry } = parseMirroring('k3s', flags)
      if (edges[0]?.host === registry?.host) return // one host less
      const benign = {
        ...base,
        edge: [`${schemeOf(edge)}://edge`],
        primary: `${schemeOf(primary)}://primary`,
      }
      assert.deepEqual(shape, shapeOf(benign))
    }),
    { numRuns: 500 },
  )
})
