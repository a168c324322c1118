import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { primarySection } from '../../primary/config.ts'
import { loadConfig } from '../../shared/config/load.ts'
import { ConfigError } from '../../shared/config/problems.ts'

function load(primary: unknown) {
  return loadConfig({
    sections: [primarySection],
    env: {},
    flags: { data: '/srv/outport', primary },
  }).primary
}

function problemsOf(primary: unknown): readonly string[] {
  try {
    load(primary)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    return error.problems.map(
      ({ path, message }) => `${path}: ${message.replace(/ \(from a flag\)$/, '')}`,
    )
  }
  assert.fail('the configuration was accepted')
}

test('a primary needs no configuration: one loopback listener, an embedded database, a key beside the data', () => {
  const primary = load({})
  assert.deepEqual(primary.listeners, [{ address: '127.0.0.1', port: 8080 }])
  assert.equal(primary.database.url, undefined)
  assert.equal(primary.key_file, '/srv/outport.key')
  assert.equal(primary.tokens.lifetime, 300_000)
  assert.equal(primary.limits.manifest, 4 * 2 ** 20)
  assert.deepEqual(primary.edges, [])
})

test("an edge's row has the scope of all projects and no people unless told", () => {
  const { edges } = load({ edges: [{ id: 'north', credential_file: '/run/north' }] })
  assert.deepEqual(edges, [
    { id: 'north', credential_file: '/run/north', scope: ['*'], accept_people: false },
  ])
})

describe('plain http', () => {
  test('on loopback needs no word', () => {
    for (const address of ['127.0.0.1', '127.9.9.9', '::1', 'localhost']) {
      assert.equal(load({ listeners: [{ address }] }).listeners[0]?.address, address)
    }
  })

  test('elsewhere needs insecure_http on that very listener', () => {
    for (const address of ['0.0.0.0', '::', '192.168.1.5', '::ffff:192.168.1.5']) {
      assert.match(
        problemsOf({ listeners: [{ address, port: 0 }] }).join(),
        /^primary\.listeners\.0: serves plain http on .*: set tls, or insecure_http/,
      )
      load({ listeners: [{ address, port: 0, insecure_http: 'anonymous' }] })
    }
    const both = [
      { address: '0.0.0.0', insecure_http: 'all' },
      { address: '10.0.0.1', port: 81 },
    ]
    assert.match(
      problemsOf({ listeners: both }).join(),
      /^primary\.listeners\.1: serves plain http/,
    )
  })

  test('is no question with tls, where insecure_http would mean nothing', () => {
    const tls = { cert: '/tls/crt', key: '/tls/key' }
    load({ listeners: [{ address: '0.0.0.0', tls }] })
    assert.match(
      problemsOf({ listeners: [{ address: '0.0.0.0', tls, insecure_http: 'all' }] }).join(),
      /^primary\.listeners\.0\.insecure_http: has no meaning/,
    )
  })
})

test('wrong things are refused with their path', () => {
  const cases: readonly (readonly [unknown, RegExp])[] = [
    [{ listeners: [] }, /^primary\.listeners: needs at least one element$/],
    [
      { listeners: [{ address: 'registry.example.com' }] },
      /^primary\.listeners\.0\.address: must be an IP address/,
    ],
    [{ listeners: [{ tls: { cert: '/c' } }] }, /^primary\.listeners\.0\.tls\.key: is required$/],
    [
      { listeners: [{ port: 9090 }] },
      /^primary\.metrics\.port: 9090 is already taken by listeners\.0$/,
    ],
    [
      { listeners: [{}, { address: '0.0.0.0', port: 8080, insecure_http: 'all' }] },
      /^primary\.listeners\.1\.port: 8080 is already taken by listeners\.0$/,
    ],
    [
      { external_url: 'registry.example.com' },
      /^primary\.external_url: must be an absolute http or https URL$/,
    ],
    [
      { external_url: 'https://h/path' },
      /^primary\.external_url: must not have a path.*'https:\/\/h' is meant$/,
    ],
    [
      { external_url: 'https://me:pw@h' },
      /^primary\.external_url: must not hold a user name or password$/,
    ],
    [{ push_url: 'ftp://h' }, /^primary\.push_url: must be an absolute/],
    [
      { trusted_proxies: ['10.0.0.0/8', 'nginx'] },
      /^primary\.trusted_proxies\.1: must be an IP address or a network/,
    ],
    [{ outbound: { allow: ['10.0.0.0/33'] } }, /^primary\.outbound\.allow\.0: must be/],
    [{ database: { url: 'mysql://h/x' } }, /^primary\.database\.url: must be a postgres:\/\/ URL$/],
    [
      { tokens: { lifetime: '10s' } },
      /^primary\.tokens\.lifetime: must be at least 1m, not "10s"$/,
    ],
    [{ limits: { manifest: '8MiB' } }, /^primary\.limits\.manifest: must be at most 4MiB/],
    [
      { key_file: '/srv/outport/secret.key' },
      /^primary\.key_file: must lie outside the data folder/,
    ],
    [
      {
        edges: [
          { id: 'a', credential_file: '/a' },
          { id: 'a', credential_file: '/b', scope: [] },
        ],
      },
      /^primary\.edges\.1\.id: 'a' is another edge's id already\nprimary\.edges\.1\.scope: needs a project/,
    ],
    [
      { edges: [{ id: 'Edge One', credential_file: '/a' }] },
      /^primary\.edges\.0\.id: must be of lower-case/,
    ],
  ]
  for (const [primary, expected] of cases) {
    assert.match(problemsOf(primary).join('\n'), expected, JSON.stringify(primary))
  }
})

test('any number of listeners may ask for any free port', () => {
  const primary = load({ listeners: [{ port: 0 }, { port: 0 }], metrics: { port: 0 } })
  assert.equal(primary.listeners.length, 2)
})
