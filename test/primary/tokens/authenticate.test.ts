import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogInLimit } from '../../../shared/auth/log-in-limit.ts'
import { createLogIns } from '../../../primary/accounts/log-ins.ts'
import { createAuthenticate } from '../../../primary/tokens/authenticate.ts'
import { formatBasic } from '../../../shared/auth/basic.ts'
import { createPasswords, hashGenerated } from '../../../shared/auth/passwords.ts'
import {
  createTokenVerifier,
  edgeAudience,
  primaryAudience,
  signToken,
  tokenIssuer,
} from '../../../shared/auth/token.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { createTestKey } from '../../kit/admin.ts'

const key = createTestKey()
const start = Date.parse('2026-01-02T03:04:05Z')
const scopes = [{ type: 'repository', name: 'a/b', actions: ['pull'] }]

function createWorld() {
  let now = start
  const logIns = createLogIns({
    findAccount: (name) =>
      Promise.resolve(
        name === 'robot$ci'
          ? {
              caller: { kind: 'robot', id: 3, name, access: undefined },
              facts: { kind: 'robot', id: 3, projectId: 1, permissions: [], expiresAt: undefined },
              secretHash: hashGenerated('Secret1234'),
            }
          : undefined,
      ),
    passwords: createPasswords({ cost: { logN: 4, blockSize: 8, parallelism: 1 } }),
    limit: createLogInLimit({ failures: 100, windowMs: 1000, now: () => now }),
    refusals: createLogInLimit({ failures: 100, windowMs: 1000, now: () => now }),
    appendAudit: () => Promise.resolve(),
    now: () => now,
  })
  const authenticate = createAuthenticate({
    logIns,
    verifier: createTokenVerifier({
      keys: () => key.jwks,
      issuer: tokenIssuer,
      audience: primaryAudience,
      cacheEntries: 10,
      now: () => now,
    }),
    externalUrl: 'https://registry.example',
    service: 'outport',
  })
  const ask = (authorization: string | undefined) =>
    authenticate({ authorization, address: '10.0.0.1', scopes })
  return { ask, pass: (ms: number) => (now += ms) }
}

async function token(subject: string, audience = primaryAudience): Promise<string> {
  const claims = { issuer: tokenIssuer, audience, subject, name: 'someone', access: scopes }
  const options = { key: key.signing, lifetimeSeconds: 300, now: new Date(start) }
  return (await signToken(claims, options)).token
}

const challenge =
  'Bearer realm="https://registry.example/service/token",service="outport",scope="repository:a/b:pull"'

async function assertChallenged(asked: Promise<unknown>, expected: string): Promise<void> {
  await assert.rejects(asked, (error) => {
    assert.ok(error instanceof OciError && error.code === 'UNAUTHORIZED' && error.status === 401)
    assert.equal(error.headers['WWW-Authenticate'], expected)
    return true
  })
}

test('a token says who it is for, and narrows what they may', async () => {
  const { ask } = createWorld()
  const cases: [string, object][] = [
    ['', { kind: 'anonymous', access: scopes }],
    ['user:7', { kind: 'user', id: 7, name: 'someone', access: scopes }],
    ['robot:3', { kind: 'robot', id: 3, name: 'someone', access: scopes }],
    ['edge:e-1', { kind: 'edge', id: 'e-1', name: 'someone', access: scopes }],
  ]
  for (const [subject, caller] of cases) {
    assert.deepEqual(await ask(`Bearer ${await token(subject)}`), caller)
  }
  assert.equal((await ask(`bearer ${await token('user:7')}`)).kind, 'user')
})

test('without a credential, and with an empty one, the caller is nobody', async () => {
  const { ask } = createWorld()
  for (const header of [undefined, '', 'Basic Og==']) {
    assert.deepEqual(await ask(header), { kind: 'anonymous', access: undefined })
  }
})

test('Basic is who logs in, with all their rights', async () => {
  const { ask } = createWorld()
  const header = formatBasic({ username: 'robot$ci', password: 'Secret1234' })
  assert.deepEqual(await ask(header), { kind: 'robot', id: 3, name: 'robot$ci', access: undefined })
})

test('a token that has expired, or is for an edge, is invalid_token', async () => {
  const { ask, pass } = createWorld()
  const invalid = `${challenge},error="invalid_token"`
  await assertChallenged(ask(`Bearer ${await token('user:7', edgeAudience('e1'))}`), invalid)
  await assertChallenged(ask('Bearer nonsense'), invalid)
  await assertChallenged(ask('Bearer'), invalid)
  await assertChallenged(ask(`Bearer ${await token('group:7')}`), invalid)
  await assertChallenged(ask(`Bearer ${await token('user:x')}`), invalid)
  pass(361_000)
  await assertChallenged(ask(`Bearer ${await token('user:7')}`), invalid)
})

test('wrong credentials and other schemes are challenged once, by one scheme', async () => {
  const { ask } = createWorld()
  const wrong = [
    formatBasic({ username: 'robot$ci', password: 'wrong' }),
    formatBasic({ username: 'nobody', password: 'Secret1234' }),
    'Basic !!!',
    'Basic',
    'Digest username="a"',
    'Negotiate x',
  ]
  for (const header of wrong) await assertChallenged(ask(header), challenge)
})
