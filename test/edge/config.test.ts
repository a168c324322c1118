import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { edgeSection } from '../../edge/config.ts'
import { loadConfig } from '../../shared/config/load.ts'
import { ConfigError } from '../../shared/config/problems.ts'

function load(edge: unknown) {
  return loadConfig({ sections: [edgeSection], env: {}, flags: { data: '/srv/outport', edge } })
    .edge
}

function outboundOf(outbound: unknown, env: Readonly<Record<string, string>>) {
  const sources = { sections: [edgeSection], env, flags: { edge: { outbound } } } as const
  const { proxy, no_proxy } = loadConfig(sources).edge.outbound
  return { proxy, no_proxy }
}

function problemsOf(edge: unknown): readonly string[] {
  try {
    load(edge)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    return error.problems.map(
      ({ path, message }) => `${path}: ${message.replace(/ \(from a flag\)$/, '')}`,
    )
  }
  assert.fail('the configuration was accepted')
}

const quay = { id: 'quay', names: ['quay.io'], url: 'https://quay.io' }

describe('without configuration', () => {
  test('a challenging listener answers for the primary and an open one for docker.io', () => {
    assert.deepEqual(load({}).listeners, [
      { name: 'edge', address: '127.0.0.1', port: 8081, default: 'primary', ping: 'challenge' },
      { name: 'mirror', address: '127.0.0.1', port: 8082, default: 'docker.io', ping: 'open' },
    ])
  })

  test('the upstreams are the primary and the ready-made public ones', () => {
    const [primary, hub, ...rest] = load({}).upstreams
    assert.deepEqual(
      rest.map(({ id, names, url, redirect_manifests }) => [id, names, url, redirect_manifests]),
      [
        ['ghcr.io', [], 'https://ghcr.io', false],
        ['quay.io', [], 'https://quay.io', false],
        ['registry.k8s.io', ['k8s.gcr.io'], 'https://registry.k8s.io', true],
        ['gcr.io', [], 'https://gcr.io', false],
        ['public.ecr.aws', [], 'https://public.ecr.aws', false],
        ['mcr.microsoft.com', [], 'https://mcr.microsoft.com', false],
      ],
    )
    assert.deepEqual(
      [primary?.id, primary?.kind, primary?.url, primary?.access, primary?.credentials],
      ['primary', 'outport', 'http://127.0.0.1:8080', 'primary', undefined],
    )
    assert.deepEqual(hub?.names, ['index.docker.io', 'registry-1.docker.io'])
    assert.deepEqual(
      [hub?.url, hub?.realm_hosts, hub?.access],
      ['https://registry-1.docker.io', ['auth.docker.io'], 'open'],
    )
  })
})

describe('upstreams', () => {
  test("of the file come behind the ready-made ones, all of them open: the primary's tokens speak of the primary alone", () => {
    const other = { id: 'branch', kind: 'outport', url: 'https://branch.example.com' }
    const { upstreams } = load({ ready_made: ['docker.io'], upstreams: [quay, other] })
    assert.deepEqual(
      upstreams.map(({ id, access }) => [id, access]),
      [
        ['primary', 'primary'],
        ['docker.io', 'open'],
        ['quay', 'open'],
        ['branch', 'open'],
      ],
    )
  })

  test("cannot be opened by the primary's tokens, which name other repositories", () => {
    assert.throws(() => load({ upstreams: [{ ...quay, access: 'primary' }] }), /access/)
  })

  const ready = ['docker.io', 'quay.io']

  test('stand for a ready-made one by its id or its name, and need not say again what it is', () => {
    const { upstreams } = load({
      ready_made: ready,
      upstreams: [
        { id: 'docker.io', credentials: { username: 'me', password: 'secret' } },
        { ...quay, realm_hosts: ['auth.quay.io'] },
      ],
    })
    assert.deepEqual(
      upstreams.map(({ id, names, url, realm_hosts }) => [id, names, url, realm_hosts]).slice(1),
      [
        [
          'docker.io',
          ['index.docker.io', 'registry-1.docker.io'],
          'https://registry-1.docker.io',
          ['auth.docker.io'],
        ],
        ['quay', ['quay.io'], 'https://quay.io', ['auth.quay.io']],
      ],
    )
  })

  test("at another place than the ready-made one never send credentials to that one's token service", () => {
    const url = 'https://hub.example.com'
    const [, hub] = load({ ready_made: ready, upstreams: [{ id: 'docker.io', url }] }).upstreams
    assert.equal(hub?.id, 'quay.io')
    const [, , mine] = load({ ready_made: ready, upstreams: [{ id: 'docker.io', url }] }).upstreams
    assert.deepEqual([mine?.url, mine?.realm_hosts], [url, []])
  })

  test('without a place are refused unless they are ready-made', () => {
    assert.throws(() => load({ upstreams: [{ id: 'mine' }] }), /upstreams\.0\.url: is required/)
  })

  test("the primary is logged in to as this edge, and answers to its URL's host", () => {
    const [primary] = load({
      id: 'north',
      credential_file: '/run/north',
      primary: { url: 'https://registry.example.com', names: ['registry.internal'] },
    }).upstreams
    assert.deepEqual(primary?.credentials, { username: 'edge$north', password_file: '/run/north' })
    assert.deepEqual(primary?.names, ['registry.example.com', 'registry.internal'])
  })
})

test('a listener of clients who bring their own log-ins is for one upstream, over TLS, and that upstream is nowhere else', () => {
  const ghcr = { id: 'ghcr.io', access: 'passthrough' }
  const tls = { cert: '/run/cert', key: '/run/key' }
  const own = { name: 'own', port: 0, default: 'ghcr.io', passthrough: 'ghcr.io', tls }
  assert.equal(load({ upstreams: [ghcr], listeners: [own] }).listeners[0]?.passthrough, 'ghcr.io')
  const cases: readonly (readonly [object, object, RegExp])[] = [
    [ghcr, { ...own, passthrough: undefined }, /^edge\.listeners\.0\.passthrough: must be 'ghcr/],
    [{ id: 'ghcr.io' }, own, /^edge\.listeners\.0\.passthrough: no upstream 'ghcr\.io' has/],
    [ghcr, { ...own, default: 'quay.io' }, /^edge\.listeners\.0\.default: must be 'ghcr\.io'/],
    [ghcr, { ...own, tls: undefined }, /^edge\.listeners\.0\.tls: is required with passthrough/],
    [ghcr, { ...own, ping: 'open' }, /^edge\.listeners\.0\.ping: must be 'challenge'/],
    [
      { ...ghcr, credentials: { username: 'me', password: 'secret' } },
      own,
      /^edge\.upstreams\.0\.credentials: are of no use/,
    ],
    [{ ...ghcr, url: 'http://ghcr.example.com' }, own, /^edge\.upstreams\.0\.url: would send cred/],
    [{ ...ghcr, kind: 'outport' }, own, /^edge\.upstreams\.0\.access: must be open/],
  ]
  for (const [upstream, listener, problem] of cases) {
    const problems = problemsOf({ upstreams: [upstream], listeners: [listener] })
    assert.ok(
      problems.some((line) => problem.test(line)),
      `${String(problem)}: ${problems.join()}`,
    )
  }
})

test('mirrors of an upstream are other open upstreams of the table, each once', () => {
  const hub = { id: 'docker.io' }
  const corp = { id: 'corp', url: 'https://corp.example', access: 'passthrough' }
  const upstreams = [{ ...hub, mirrors: ['quay/hub-proxy', 'ghcr.io'], mirror_wait: '500ms' }, quay]
  const [primary, , ...rest] = load({ upstreams }).upstreams
  const mine = rest.find(({ id }) => id === 'docker.io')
  assert.deepEqual([mine?.mirrors, mine?.mirror_wait], [['quay/hub-proxy', 'ghcr.io'], 500])
  assert.deepEqual([primary?.mirrors, rest.at(-1)?.mirrors], [[], []])
  // Nobody follows them further.
  load({
    upstreams: [
      { ...hub, mirrors: ['quay'] },
      { ...quay, mirrors: ['docker.io'] },
    ],
  })
  const at = 'edge.upstreams.0.mirrors'
  const cases: readonly (readonly [object, string])[] = [
    [{ ...hub, mirrors: ['docker.io'] }, `${at}.0: is the upstream itself`],
    [{ ...hub, mirrors: ['primary'] }, `${at}.0: is the primary, which mirrors nobody`],
    [
      { ...hub, mirrors: ['quay', 'quay.io'] },
      `${at}.1: no upstream has the id 'quay.io'; there are primary, ghcr.io, `,
    ],
    [{ ...hub, mirrors: ['quay', 'ghcr.io', 'quay/x'] }, `${at}.2: 'quay' is listed already`],
    [{ ...hub, mirrors: ['corp'] }, `${at}.0: 'corp' is for clients with their own logins`],
    [{ ...hub, mirrors: ['quay/'] }, `${at}.0: 'quay/' is neither an id nor`],
    [{ ...hub, mirrors: ['quay/../x'] }, `${at}.0: 'quay/../x' is neither an id nor`],
    [{ ...hub, access: 'passthrough', mirrors: ['quay'] }, `${at}: are not for passthrough`],
  ]
  for (const [upstream, problem] of cases) {
    const problems = problemsOf({ upstreams: [upstream, quay, corp] })
    assert.ok(
      problems.some((line) => line.startsWith(problem)),
      `${problem}: ${problems.join()}`,
    )
  }
})

test('wrong things are refused with their path', () => {
  const listener = { name: 'one', port: 0, default: 'primary' }
  const cases: readonly (readonly [unknown, RegExp])[] = [
    [
      { listeners: [{ ...listener, default: 'quay' }] },
      /^edge\.listeners\.0\.default: no upstream has the id 'quay'; there are primary, docker\.io/,
    ],
    [
      { listeners: [{ default: 'nowhere' }] },
      /^edge\.listeners\.0\.default: no upstream has the id 'nowhere'/,
    ],
    [
      { listeners: [{}, { name: 'edge' }] },
      /^edge\.listeners\.1\.name: 'edge' is another listener's name already/,
    ],
    [
      { listeners: [{ address: '0.0.0.0' }] },
      /^edge\.listeners\.0: serves plain http on 0\.0\.0\.0/,
    ],
    [
      { upstreams: [{ ...quay, id: 'primary' }] },
      /^edge\.upstreams\.0\.id: 'primary' is the primary/,
    ],
    [
      { upstreams: [quay, { ...quay, names: [] }] },
      /^edge\.upstreams\.1\.id: 'quay' is another upstream's id already/,
    ],
    [
      { upstreams: [{ ...quay, id: 'Quay' }] },
      /^edge\.upstreams\.0\.id: must be of lower-case letters/,
    ],
    [{ upstreams: [{ ...quay, id: '../etc' }] }, /^edge\.upstreams\.0\.id: must be of/],
    [
      { upstreams: [{ ...quay, names: ['Index.Docker.IO'] }] },
      /^edge\.upstreams\.0\.names: 'index\.docker\.io' also names the upstream 'docker\.io'/,
    ],
    [
      { upstreams: [{ ...quay, url: 'quay.io' }] },
      /^edge\.upstreams\.0\.url: must be an absolute http or https URL/,
    ],
    [
      { upstreams: [{ ...quay, credentials: { username: 'u' } }] },
      /^edge\.upstreams\.0\.credentials: needs either password or password_file/,
    ],
    [
      {
        upstreams: [
          { ...quay, url: 'http://10.0.0.1', credentials: { username: 'u', password: 'PLANTED' } },
        ],
      },
      /^edge\.upstreams\.0\.url: would send credentials over plain http/,
    ],
    [{ credential_file: '/run/x' }, /^edge\.id: is required with credential_file/],
    [
      { id: 'a', credential_file: '/run/x', primary: { url: 'http://10.0.0.1' } },
      /^edge\.primary\.url: would send credentials over plain http/,
    ],
    [
      { upstreams: [{ ...quay, client_cert: { cert: 'c.crt' } }] },
      /^edge\.upstreams\.0\.client_cert\.key: is required/,
    ],
    [
      { upstreams: [{ ...quay, url: 'http://quay', client_cert: { cert: 'c', key: 'k' } }] },
      /^edge\.upstreams\.0\.client_cert: is shown over https only/,
    ],
    [
      { primary: { client_cert: { cert: 'c', key: 'k' } } },
      /^edge\.primary\.client_cert: is shown over https only/,
    ],
    [
      { outbound: { proxy: 'socks5://me:PLANTED@proxy.example' } },
      /^edge\.outbound\.proxy: must be the URL of an http or https proxy/,
    ],
    [
      { outbound: { proxy: 'http://me:PLANTED@proxy.example/x' } },
      /^edge\.outbound\.proxy: must not have a path/,
    ],
    [
      { outbound: { no_proxy: ['a.example', '10.0.0.0/33'] } },
      /^edge\.outbound\.no_proxy\.1: '10\.0\.0\.0\/33' names no host/,
    ],
    [{ primary: { url: 'https://h/v2' } }, /^edge\.primary\.url: must not have a path/],
    [{ fill: { segment: '1500KiB' } }, /^edge\.fill\.segment: must be a multiple of 1MiB/],
    [{ cache: { decision_ttl: '10m' } }, /^edge\.cache\.decision_ttl: must be at most 5m/],
    [
      { cache: { pins: [{ upstream: 'quay', repository: 'a' }] } },
      /^edge\.cache\.pins\.0\.upstream: no upstream has the id 'quay'/,
    ],
    [
      { cache: { pins: [{ upstream: 'quay.io', repository: 'prod/*' }] } },
      /^edge\.cache\.pins\.0\.repository: 'prod\/\*' is neither a repository's name nor 'name\/\*\*'/,
    ],
    [
      { cache: { pins: [{ upstream: 'quay.io', repository: 'a', references: ['v1', ':'] }] } },
      /^edge\.cache\.pins\.0\.references\.1: ':' is neither a tag nor a digest/,
    ],
    [
      { upstreams: [{ ...quay, access: 'passthrough', prefetch: 'on' }] },
      /edge\.upstreams\.0\.prefetch: must be off with passthrough/,
    ],
  ]
  for (const [edge, expected] of cases) {
    const problems = problemsOf(edge).join('\n')
    assert.match(problems, expected, JSON.stringify(edge))
    assert.doesNotMatch(problems, /PLANTED/)
  }
})

test('what is wrong with one element hides nothing of the others', () => {
  const listener = { name: 'one', port: 0, default: 'primary' }
  assert.deepEqual(
    problemsOf({
      listeners: [
        { ...listener, port: 99_999 },
        { ...listener, name: 'two', address: 'nowhere' },
        { ...listener, name: 'two', default: 'nothing' },
      ],
      upstreams: [{ ...quay, id: 'Quay!' }, quay, { ...quay, url: 'quay.io' }],
    }).map((line) => line.split(': ')[0]),
    [
      'edge.upstreams.0.id',
      'edge.listeners.0.port',
      'edge.listeners.1.address',
      'edge.listeners.1',
      'edge.listeners.2.name',
      'edge.listeners.2.default',
      'edge.upstreams.2.id',
      'edge.upstreams.2.url',
    ],
  )
})

test('credentials may cross plain http where somebody said so, and on this machine', () => {
  const credentials = { username: 'u', password: 'p' }
  load({ upstreams: [{ ...quay, url: 'http://10.0.0.1', insecure_http: true, credentials }] })
  load({ upstreams: [{ ...quay, url: 'http://127.0.0.1:5000', credentials }] })
})

test('upstreams are reached through the proxies of the environment where the file names none', () => {
  const secure = 'http://me:secret@secure.example:3128'
  assert.deepEqual(outboundOf({}, {}), { proxy: undefined, no_proxy: [] })
  assert.deepEqual(
    outboundOf({}, { HTTPS_PROXY: secure, http_proxy: 'clear:3128', no_proxy: ' a.example, .b ,' }),
    { proxy: { https: secure, http: 'clear:3128' }, no_proxy: ['a.example', '.b'] },
  )
  assert.deepEqual(outboundOf({}, { https_proxy: secure, HTTPS_PROXY: '', HTTP_PROXY: '' }), {
    proxy: { https: secure },
    no_proxy: [],
  })
  const mine = 'https://mine.example'
  assert.deepEqual(
    outboundOf(
      { proxy: mine, no_proxy: ['10.0.0.0/8'] },
      { HTTP_PROXY: secure, NO_PROXY: 'a.example' },
    ),
    { proxy: { https: mine, http: mine }, no_proxy: ['10.0.0.0/8'] },
  )
  assert.deepEqual(
    outboundOf({ proxy: mine }, { NO_PROXY: 'a.example', OUTPORT_EDGE__OUTBOUND__NO_PROXY: '*' }),
    { proxy: { https: mine, http: mine }, no_proxy: ['*'] },
  )
})

test('an upstream and the primary are shown a certificate of their own', () => {
  const client_cert = { cert: '/run/tls.crt', key: '/run/tls.key' }
  const [primary, ...others] = load({
    primary: { url: 'https://registry.example.com', client_cert },
    upstreams: [{ ...quay, client_cert: { ...client_cert, key: '/run/quay.key' } }],
  }).upstreams
  assert.deepEqual(primary?.client_cert, client_cert)
  assert.equal(others.at(-1)?.client_cert?.key, '/run/quay.key')
  assert.ok(others.slice(0, -1).every((upstream) => upstream.client_cert === undefined))
})
