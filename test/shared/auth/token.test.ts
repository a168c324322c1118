import assert from 'node:assert/strict'
import { createHmac, generateKeyPairSync, randomUUID, sign, type KeyObject } from 'node:crypto'
import { test } from 'node:test'
import type { JWK } from 'jose'
import { createTokenVerifier, signToken, type PublicKeys } from '../../../shared/auth/token.ts'

const issuer = 'https://registry.example'
const start = Date.parse('2026-01-02T03:04:05Z')

interface Pair {
  readonly kid: string
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
  readonly jwk: JWK
}

function createPair(kid: string): Pair {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const jwk = { ...(publicKey.export({ format: 'jwk' }) as JWK), kid, alg: 'ES256', use: 'sig' }
  return { kid, privateKey, publicKey, jwk }
}

const ours = createPair('ours')
const access = [{ type: 'repository', name: 'library/app', actions: ['pull'] }]

function createVerifier(options: { keys?: () => PublicKeys; now?: () => number } = {}) {
  return createTokenVerifier({
    keys: options.keys ?? (() => ({ keys: [ours.jwk] })),
    issuer,
    audience: 'outport',
    cacheEntries: 10,
    now: options.now ?? (() => start),
  })
}

function signOurs(changes: { audience?: string; issuer?: string; at?: number } = {}) {
  return signToken(
    {
      issuer: changes.issuer ?? issuer,
      audience: changes.audience ?? 'outport',
      subject: 'user:7',
      name: 'alice',
      access,
    },
    { key: ours, lifetimeSeconds: 300, now: new Date(changes.at ?? start) },
  )
}

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

const seconds = start / 1000
const goodPayload = {
  iss: issuer,
  aud: 'outport',
  sub: 'user:1',
  name: 'admin',
  iat: seconds,
  nbf: seconds,
  exp: seconds + 300,
  jti: randomUUID(),
  access: [{ type: 'repository', name: 'library/app', actions: ['pull', 'push', 'delete'] }],
}

function forge(
  header: Record<string, unknown>,
  options: { payload?: Record<string, unknown>; key?: KeyObject; hmac?: string | Buffer } = {},
): string {
  const input = `${encode(header)}.${encode(options.payload ?? goodPayload)}`
  if (options.hmac !== undefined) {
    return `${input}.${createHmac('sha256', options.hmac).update(input).digest('base64url')}`
  }
  if (options.key === undefined) return `${input}.`
  const signature = sign('sha256', Buffer.from(input), {
    key: options.key,
    dsaEncoding: 'ieee-p1363',
  })
  return `${input}.${signature.toString('base64url')}`
}

test('a token that was signed is read back', async () => {
  const { token, claims } = await signOurs()
  const verifier = createVerifier()
  assert.deepEqual(await verifier.verify(token), claims)
  assert.deepEqual(await verifier.verify(token), claims, 'remembered')
  assert.equal(claims.expiresAt, seconds + 300)
})

test('the forger of these tests would pass with our key', async () => {
  const token = forge({ alg: 'ES256', typ: 'JWT', kid: 'ours' }, { key: ours.privateKey })
  assert.equal((await createVerifier().verify(token))?.subject, 'user:1')
})

test('tokens that choose their own algorithm or key are refused', async () => {
  const foreign = createPair('ours')
  const pem = ours.publicKey.export({ type: 'spki', format: 'pem' })
  const der = ours.publicKey.export({ type: 'spki', format: 'der' })
  const base = { typ: 'JWT', kid: 'ours' }
  const good = { ...base, alg: 'ES256' }
  const forgeries: Record<string, string> = {
    'alg none': forge({ ...base, alg: 'none' }),
    'alg None': forge({ ...base, alg: 'None' }),
    'alg missing': forge(base, { key: ours.privateKey }),
    'no signature': forge(good),
    'HS256 with our public PEM': forge({ ...base, alg: 'HS256' }, { hmac: pem }),
    'HS256 with our public DER': forge({ ...base, alg: 'HS256' }, { hmac: der }),
    'HS256 with our JWK': forge({ ...base, alg: 'HS256' }, { hmac: JSON.stringify(ours.jwk) }),
    'ES256 header, HMAC inside': forge(good, { hmac: pem }),
    'RS256 header': forge({ ...base, alg: 'RS256' }, { key: ours.privateKey }),
    'foreign key under our kid': forge(good, { key: foreign.privateKey }),
    'embedded jwk': forge({ ...good, jwk: foreign.jwk }, { key: foreign.privateKey }),
    'embedded jwk, its own kid': forge(
      { ...good, kid: 'theirs', jwk: { ...foreign.jwk, kid: 'theirs' } },
      { key: foreign.privateKey },
    ),
    x5c: forge(
      { ...good, x5c: [Buffer.from(der).toString('base64')] },
      { key: foreign.privateKey },
    ),
    jku: forge({ ...good, jku: 'https://evil.example/jwks' }, { key: foreign.privateKey }),
    x5u: forge({ ...good, x5u: 'https://evil.example/x5u' }, { key: foreign.privateKey }),
    'kid as a path': forge({ ...good, kid: '../../../dev/null' }, { key: foreign.privateKey }),
    'kid absent': forge({ alg: 'ES256', typ: 'JWT' }, { key: ours.privateKey }),
    'kid of a prototype': forge({ ...good, kid: '__proto__' }, { key: foreign.privateKey }),
    'kid not text': forge({ ...good, kid: 7 }, { key: ours.privateKey }),
    'another typ': forge({ ...good, typ: 'at+jwt' }, { key: ours.privateKey }),
    'unknown crit': forge({ ...good, crit: ['exp'], exp: 1 }, { key: ours.privateKey }),
  }
  const verifier = createVerifier()
  for (const [name, token] of Object.entries(forgeries)) {
    assert.equal(await verifier.verify(token), undefined, name)
  }
})

test('claims that are not ours are refused', async () => {
  const header = { alg: 'ES256', typ: 'JWT', kid: 'ours' }
  const payloads: Record<string, Record<string, unknown>> = {
    'another audience': { aud: 'edge:e1' },
    'two audiences': { aud: ['outport', 'edge:e1'] },
    'no audience': { aud: undefined },
    'another issuer': { iss: 'https://evil.example' },
    'no subject': { sub: undefined },
    'no expiry': { exp: undefined },
    'expiry as text': { exp: '9999999999' },
    'not before in 120 s': { nbf: seconds + 120 },
    'expired 61 s ago': { exp: seconds - 61 },
    'access not a list': { access: { type: 'repository' } },
    'access of another form': { access: ['repository:a:pull'] },
    'no access': { access: undefined },
  }
  const verifier = createVerifier()
  for (const [name, change] of Object.entries(payloads)) {
    const token = forge(header, { key: ours.privateKey, payload: { ...goodPayload, ...change } })
    assert.equal(await verifier.verify(token), undefined, name)
  }
})

test('what is not a token is refused without a throw', async () => {
  const verifier = createVerifier()
  for (const text of ['', '.', '..', 'a.b.c', `${encode(null)}..`, 'x'.repeat(20_000), '\0']) {
    assert.equal(await verifier.verify(text), undefined, JSON.stringify(text.slice(0, 20)))
  }
})

test('a verifier whose clock is half an hour slow takes a new token', async () => {
  const { token, claims } = await signOurs()
  const verifier = createVerifier({ now: () => start - 30 * 60_000 })
  assert.deepEqual(await verifier.verify(token), claims)
})

test('a remembered token ends at its expiry', async () => {
  let now = start
  const verifier = createVerifier({ now: () => now })
  const { token } = await signOurs()
  assert.notEqual(await verifier.verify(token), undefined)
  now = start + 299_000
  assert.notEqual(await verifier.verify(token), undefined)
  now = start + 361_000
  assert.equal(await verifier.verify(token), undefined)
})

test('a withdrawn key takes remembered tokens along', async () => {
  let keys: PublicKeys = { keys: [ours.jwk] }
  const verifier = createVerifier({ keys: () => keys })
  const { token } = await signOurs()
  assert.notEqual(await verifier.verify(token), undefined)
  keys = { keys: [createPair('ours').jwk] }
  assert.equal(await verifier.verify(token), undefined)
  keys = { keys: [] }
  assert.equal(await verifier.verify(token), undefined)
})

test('keys may be fetched, and a failing fetch stays a fault', async () => {
  const { token } = await signOurs()
  const wanted: string[] = []
  const fetching = createTokenVerifier({
    keys: (kid) => {
      wanted.push(kid)
      return Promise.resolve({ keys: [ours.jwk] })
    },
    issuer,
    audience: 'outport',
    cacheEntries: 1,
    now: () => start,
  })
  assert.notEqual(await fetching.verify(token), undefined)
  assert.deepEqual(wanted, ['ours'])
  const failing = createVerifier({
    keys: () => {
      throw new Error('no connection')
    },
  })
  await assert.rejects(failing.verify(token), /no connection/)
})
