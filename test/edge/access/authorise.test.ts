import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import {
  createChallengingAccess,
  createOpenAccess,
  type AuthoriseDeps,
} from '../../../edge/access/authorise.ts'
import type { RelayedLogin } from '../../../edge/access/token-relay.ts'
import { createTokenVerifier, signToken } from '../../../shared/auth/token.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'

const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const issuer = 'outport'
const audience = 'edge:one'
const repository = parseRepositoryName('team/app')
const other = parseRepositoryName('team/secret')
const registries = createRegistries([
  { id: 'primary', url: new URL('http://127.0.0.1:1'), kind: 'primary' },
  {
    id: 'docker.io',
    names: ['index.docker.io', 'registry-1.docker.io'],
    url: new URL('https://registry-1.docker.io'),
    libraryPrefix: true,
  },
])
const [primary, hub] = registries.entries
assert.ok(primary && hub)
const path = { kind: 'tags', repository } as const
const from = { address: '127.0.0.1', requestId: 'r' }
const realm = { url: 'http://edge.test/service/token', service: 'edge:one' }

async function tokenFor(names: readonly string[], to = audience): Promise<string> {
  const access = names.map((name) => ({ type: 'repository', name, actions: ['pull'] }))
  const claims = { issuer, audience: to, subject: 'user:7', name: 'alice', access }
  return (
    await signToken(claims, { key: { kid: 'k', privateKey }, lifetimeSeconds: 60, now: new Date() })
  ).token
}

/** A primary that knows alice and one public repository. */
function createDeps(
  publicNames: readonly string[] = [],
): AuthoriseDeps & { readonly logins: RelayedLogin[] } {
  const logins: RelayedLogin[] = []
  return {
    logins,
    isRevoked: () => false,
    isOpen: (upstream) => upstream === 'docker.io',
    decisions: 100,
    decisionTtlMs: 60_000,
    verifier: createTokenVerifier({
      keys: () => ({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k' }] }),
      issuer,
      audience,
      cacheEntries: 10,
    }),
    relay: {
      async logIn(login) {
        logins.push(login)
        const isAlice = login.authorization === `Basic ${btoa('alice:right')}`
        if (login.authorization !== undefined && !isAlice)
          throw new OciError('UNAUTHORIZED', 'wrong password')
        const allowed = isAlice ? ['team/app'] : publicNames
        const names = login.scopes.map(({ name }) => name).filter((name) => allowed.includes(name))
        return { token: await tokenFor(names), expiresIn: 60, issuedAt: new Date().toISOString() }
      },
    },
  }
}

const challenging = (deps = createDeps()) =>
  createChallengingAccess(deps, { realm, takesLogins: true })
const refusedWith = (challenge: RegExp) => (error: unknown) =>
  error instanceof OciError &&
  error.code === 'UNAUTHORIZED' &&
  challenge.test(error.headers['WWW-Authenticate'] ?? '')

test('a challenging listener asks nobody for what is open, and everybody for the rest', async () => {
  const access = challenging()
  await access.pull({ authorization: undefined, ...from }, { entry: hub, repository, path })
  const challenge =
    /^Bearer realm="http:\/\/edge\.test\/service\/token",service="edge:one",scope="repository:team\/app:pull"$/
  await assert.rejects(
    access.pull({ authorization: undefined, ...from }, { entry: primary, repository, path }),
    refusedWith(challenge),
  )
  await assert.rejects(
    access.ping({ authorization: undefined, ...from }),
    refusedWith(/^Bearer realm="[^"]*",service="[^"]*"$/),
  )
})

test('a token opens the repositories that it names, and no other', async () => {
  const access = challenging()
  const authorization = `Bearer ${await tokenFor(['team/app'])}`
  await access.ping({ authorization, ...from })
  await access.pull({ authorization, ...from }, { entry: primary, repository, path })
  await assert.rejects(
    access.pull({ authorization, ...from }, { entry: primary, repository: other, path }),
    refusedWith(/error="insufficient_scope"/),
  )
})

test('a token for the primary or for another edge is an invalid token here', async () => {
  const access = challenging()
  for (const foreign of ['outport', 'edge:two']) {
    const authorization = `Bearer ${await tokenFor(['team/app'], foreign)}`
    await assert.rejects(
      access.pull({ authorization, ...from }, { entry: primary, repository, path }),
      refusedWith(/error="invalid_token"/),
    )
  }
  for (const authorization of ['Bearer x', 'Bearer ', 'Negotiate abc', '']) {
    await assert.rejects(
      access.pull({ authorization, ...from }, { entry: primary, repository, path }),
      refusedWith(/error="invalid_token"/),
    )
  }
})

test('a password is relayed once, then remembered for its repository only', async () => {
  const deps = createDeps()
  const access = challenging(deps)
  const authorization = `Basic ${btoa('alice:right')}`
  for (let times = 0; times < 3; times++)
    await access.pull({ authorization, ...from }, { entry: primary, repository, path })
  assert.equal(deps.logins.length, 1)
  await assert.rejects(
    access.pull({ authorization, ...from }, { entry: primary, repository: other, path }),
    refusedWith(/insufficient_scope/),
  )
  assert.equal(deps.logins.length, 2)
  await assert.rejects(
    access.pull(
      { authorization: `Basic ${btoa('alice:wrong')}`, ...from },
      { entry: primary, repository, path },
    ),
    { code: 'UNAUTHORIZED' },
  )
})

test('a listener without log-ins refuses a password and says why, and takes an anonymous token', async () => {
  const deps = createDeps()
  const access = createChallengingAccess(deps, { realm, takesLogins: false })
  await assert.rejects(access.ping({ authorization: `Basic ${btoa('alice:right')}`, ...from }), {
    code: 'DENIED',
  })
  assert.equal(deps.logins.length, 0)
  await access.ping({ authorization: `Bearer ${await tokenFor([])}`, ...from })
})

test('an open listener serves what is public, hides the rest, and does not read credentials', async () => {
  const deps = createDeps(['team/app'])
  const access = createOpenAccess(deps)
  await access.ping({ authorization: undefined, ...from })
  await access.pull({ authorization: undefined, ...from }, { entry: hub, repository: other, path })
  await access.pull(
    { authorization: `Basic ${btoa('alice:right')}`, ...from },
    { entry: primary, repository, path },
  )
  await assert.rejects(
    access.pull(
      { authorization: `Basic ${btoa('alice:right')}`, ...from },
      { entry: primary, repository: other, path },
    ),
    { code: 'NAME_UNKNOWN', status: 404 },
  )
  assert.deepEqual(
    deps.logins.map(({ authorization }) => authorization),
    [undefined, undefined],
  )
})
