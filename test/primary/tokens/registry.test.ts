// The whole primary: what its own tokens, foreign ones and log-ins open at the registry.
import assert from 'node:assert/strict'
import { createHmac, generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { request as sendRequest } from 'node:http'
import { before, describe, test } from 'node:test'
import { createKeys, type KeyRing } from '../../../primary/store/keys.ts'
import { openKeyFile } from '../../../primary/store/key-file.ts'
import { formatBasic } from '../../../shared/auth/basic.ts'
import {
  edgeAudience,
  primaryAudience,
  signToken,
  tokenIssuer,
} from '../../../shared/auth/token.ts'
import { waitFor } from '../../kit/clock.ts'
import { bytesOf, contentOf, createImage, pushImage } from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { Answer, Credentials } from '../../kit/registry-client.ts'

const image = createImage({ seed: 'tokens' })
const leewaySeconds = 60

describe('at the registry', () => {
  const lines: string[] = []
  let primary: TestPrimary
  let ring: KeyRing

  before(async () => {
    primary = await startTestPrimary({
      primary: { uploads: { sweep: '1h' } },
      onLog: (line) => void lines.push(line),
    })
    ring = await createKeys(
      primary.records,
      await openKeyFile(primary.config.primary.key_file),
    ).ring('jwt', new Date())
    await primary.createProject('closed', { isPublic: false })
    const client = primary.client(primary.admin)
    await pushImage(client, 'closed/app', image, 'v1')
    await pushImage(client, 'library/app', image, 'v1')
  })

  const ask = (method: string, path: string, authorization?: string): Promise<Answer> =>
    primary
      .client()
      .request(method, path, authorization === undefined ? {} : { headers: { authorization } })

  const issue = async (scope: string, credentials?: Credentials): Promise<string> => {
    const query = new URLSearchParams({ service: 'outport', scope }).toString()
    const basic = credentials && formatBasic(credentials)
    const answer = await ask('GET', `/service/token?${query}`, basic)
    assert.equal(answer.status, 200)
    return `Bearer ${(answer.json() as { token: string }).token}`
  }

  /** A token of our own key, as the primary would sign it at that time. */
  const signAt = async (
    time: number,
    options: { audience?: string; actions?: readonly string[] } = {},
  ): Promise<string> => {
    const { audience = primaryAudience, actions = ['pull', 'push', 'delete'] } = options
    const access = [{ type: 'repository', name: 'closed/app', actions }]
    const claims = { issuer: tokenIssuer, audience, subject: 'user:1', name: 'admin', access }
    const { token } = await signToken(claims, {
      key: ring.signing,
      lifetimeSeconds: 300,
      now: new Date(time),
    })
    return `Bearer ${token}`
  }

  const challengeOf = (answer: Answer): string => String(answer.headers['www-authenticate'])
  const manifest = '/v2/closed/app/manifests/v1'

  test('nobody pulls what is public, and is challenged once for the rest', async () => {
    for (const header of [undefined, 'Basic Og==']) {
      const ping = await ask('GET', '/v2/', header)
      assert.equal(ping.status, 401)
      assert.match(challengeOf(ping), /^Bearer realm="[^"]+",service="outport"$/)
    }
    const token = await issue('repository:library/app:pull,push')
    assert.equal((await ask('GET', '/v2/', token)).status, 200)
    assert.equal((await ask('GET', '/v2/library/app/manifests/v1', token)).status, 200)
    const push = await ask('POST', '/v2/library/app/blobs/uploads/', token)
    assert.equal(push.status, 401)
    assert.match(
      challengeOf(push),
      /scope="repository:library\/app:pull,push",error="insufficient_scope"$/,
    )
  })

  test('what is not there and what is not for the caller are refused in the same words', async () => {
    const token = await issue('repository:closed/app:pull repository:missing/app:pull')
    const closed = await ask('GET', manifest, token)
    const missing = await ask('GET', '/v2/missing/app/manifests/v1', token)
    assert.equal(closed.status, 401)
    assert.equal(missing.status, 401)
    const plain = (answer: Answer, name: string) =>
      (answer.body.toString() + challengeOf(answer)).replaceAll(name, 'X')
    assert.equal(plain(closed, 'closed'), plain(missing, 'missing'))
  })

  test('an expired token is invalid_token with the scope to ask for again', async () => {
    const fresh = await signAt(Date.now())
    assert.equal((await ask('GET', manifest, fresh)).status, 200)
    const expired = await ask('GET', manifest, await signAt(Date.now() - 3_600_000))
    assert.equal(expired.status, 401)
    assert.match(challengeOf(expired), /scope="repository:closed\/app:pull",error="invalid_token"$/)
  })

  test('a token for an edge, or by a key that is not ours, opens nothing', async () => {
    const publicKey = ring.public.keys[0] ?? {}
    const foreign = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const jwk = { ...foreign.publicKey.export({ format: 'jwk' }), kid: 'theirs', alg: 'ES256' }
    const base = { typ: 'JWT', kid: ring.signing.kid }
    const forged: Record<string, string> = {
      'for an edge': await signAt(Date.now(), { audience: edgeAudience('e1') }),
      'for another service': await signAt(Date.now(), { audience: 'registry.docker.io' }),
      'from the future': await signAt(Date.now() + 3_600_000 + 120_000),
      'alg none': forge({ ...base, alg: 'none' }),
      'HS256 with our public key': forge(
        { ...base, alg: 'HS256' },
        { hmac: JSON.stringify(publicKey) },
      ),
      'an embedded key': forge({ ...base, alg: 'ES256', jwk }, { key: foreign.privateKey }),
      'an embedded key and its kid': forge(
        { ...base, alg: 'ES256', kid: 'theirs', jwk },
        { key: foreign.privateKey },
      ),
      'a key elsewhere': forge(
        { ...base, alg: 'ES256', jku: 'http://127.0.0.1:1/' },
        { key: foreign.privateKey },
      ),
      'a kid that is a path': forge(
        { ...base, alg: 'ES256', kid: '../../../../dev/null' },
        { key: foreign.privateKey },
      ),
    }
    for (const [name, authorization] of Object.entries(forged)) {
      const answer = await ask('GET', manifest, authorization)
      assert.equal(answer.status, 401, name)
      assert.match(challengeOf(answer), /error="invalid_token"$/, name)
    }
  })

  test('a token that may pull does nothing else, and one that may push deletes nothing', async () => {
    const { digest } = image.manifest
    const layer = contentOf(bytesOf('layer', 100))
    const writes: [string, string][] = [
      ['POST', '/v2/closed/app/blobs/uploads/'],
      ['POST', `/v2/closed/app/blobs/uploads/?mount=${layer.digest}&from=library/app`],
      ['POST', `/v2/closed/app/blobs/uploads/?digest=${layer.digest}`],
      ['PATCH', '/v2/closed/app/blobs/uploads/0123'],
      ['PUT', `/v2/closed/app/blobs/uploads/0123?digest=${layer.digest}`],
      ['DELETE', '/v2/closed/app/blobs/uploads/0123'],
      ['PUT', '/v2/closed/app/manifests/v2'],
      ['PUT', `/v2/closed/app/manifests/${digest}`],
    ]
    const deletions: [string, string][] = [
      ['DELETE', '/v2/closed/app/manifests/v1'],
      ['DELETE', `/v2/closed/app/manifests/${digest}`],
      ['DELETE', `/v2/closed/app/blobs/${layer.digest}`],
    ]
    const puller = await issue('repository:closed/app:pull', primary.admin)
    for (const [method, path] of [...writes, ...deletions]) {
      const answer = await ask(method, path, puller)
      assert.equal(answer.status, 401, `${method} ${path}`)
      assert.match(challengeOf(answer), /error="insufficient_scope"$/)
    }
    const pusher = await issue('repository:closed/app:pull,push', primary.admin)
    for (const [method, path] of deletions) {
      assert.equal((await ask(method, path, pusher)).status, 401, `${method} ${path}`)
    }
    assert.equal((await ask('GET', manifest, puller)).status, 200)
  })

  test('a token that expires while an upload runs does not end it', async () => {
    // It expires, leeway and all, in a second.
    const dying = await signAt(Date.now() - (300 + leewaySeconds) * 1000 + 1500)
    const opened = await ask('POST', '/v2/closed/app/blobs/uploads/', dying)
    assert.equal(opened.status, 202)
    const upload = sendRequest(new URL(String(opened.headers.location), primary.url), {
      method: 'PATCH',
      headers: { authorization: dying, 'Transfer-Encoding': 'chunked' },
    })
    const answered = new Promise<number>((resolve, reject) => {
      upload.once('error', reject)
      upload.once('response', (response) => {
        response.resume()
        resolve(response.statusCode ?? 0)
      })
    })
    upload.write(bytesOf('first', 1000))
    await waitFor('the token to expire', async () => {
      const ping = await ask('GET', '/v2/', dying)
      return ping.status === 401
    })
    upload.end(bytesOf('last', 1000))
    assert.equal(await answered, 202)
  })

  test('what is taken away is gone within a second, whatever tokens are out', async () => {
    const alice = await primary.createUser()
    await primary.setRole('closed', alice.username, 3)
    const token = await issue('repository:closed/app:pull', alice)
    const basic = formatBasic(alice)
    assert.equal((await ask('GET', manifest, token)).status, 200)
    assert.equal((await ask('GET', manifest, basic)).status, 200)
    const members = await ask(
      'GET',
      `/api/v2.0/projects/closed/members?entityname=${alice.username}`,
      formatBasic(primary.admin),
    )
    const [member] = members.json() as { id: number }[]
    const path = `/api/v2.0/projects/closed/members/${member?.id ?? 0}`
    assert.equal((await ask('DELETE', path, formatBasic(primary.admin))).status, 200)
    const gone = async (authorization: string) =>
      (await ask('GET', manifest, authorization)).status === 401
    await waitFor('the token to open nothing', () => gone(token), { timeoutMs: 1000 })
    await waitFor('the log-in to open nothing', () => gone(basic), { timeoutMs: 1000 })
  })

  test('a new password works at once, and the old one ends within a second', async () => {
    const bob = await primary.createUser()
    const library = '/v2/library/app/manifests/v1'
    assert.equal((await ask('GET', library, formatBasic(bob))).status, 200)
    const changed = { ...bob, password: 'Changed-12345' }
    const { id } = await primary.records
      .selectFrom('users')
      .select('id')
      .where('username', '=', bob.username)
      .executeTakeFirstOrThrow()
    const answer = await primary.client(bob).request('PUT', `/api/v2.0/users/${id}/password`, {
      body: Buffer.from(
        JSON.stringify({ old_password: bob.password, new_password: changed.password }),
      ),
      headers: { 'Content-Type': 'application/json' },
    })
    assert.equal(answer.status, 200)
    assert.equal((await ask('GET', library, formatBasic(changed))).status, 200)
    await waitFor(
      'the old password to open nothing',
      async () => (await ask('GET', library, formatBasic(bob))).status === 401,
      { timeoutMs: 1000 },
    )
  })

  test('a request with a log-in that is new costs two queries: the account, and all the rest', async () => {
    const queries = async (): Promise<number> => {
      const text = await (await fetch(new URL('/metrics', primary.metricsUrl))).text()
      return Number(/^outport_primary_database_query_seconds_count\S* (\d+)$/m.exec(text)?.[1])
    }
    const robots = await Promise.all(
      Array.from({ length: 40 }, (_, n) => primary.createRobot('closed', `cold${n}`)),
    )
    const [blob] = image.blobs
    const counts: number[] = []
    for (const robot of robots) {
      // The primary asks for its own purposes in between: often, on a machine that has much else to do.
      if (counts.includes(2)) break
      const before = await queries()
      const header = formatBasic(robot)
      const answer = await ask('HEAD', `/v2/closed/app/blobs/${blob?.digest}`, header)
      assert.equal(answer.status, 200)
      counts.push((await queries()) - before)
    }
    assert.equal(Math.min(...counts), 2, counts.join(' '))
  })

  test('no token and no secret that came in is in the log', async () => {
    const token = await issue('repository:closed/app:pull', primary.admin)
    await ask('GET', `/v2/closed/app/tags/list?token=PlantedQuery1`, token)
    await ask('GET', '/v2/', 'Bearer PlantedBearer1')
    await ask('GET', '/v2/', formatBasic({ username: 'admin', password: 'PlantedBasic1' }))
    await waitFor('the access lines', () => lines.some((line) => line.includes('tags')))
    const log = lines.join('\n')
    assert.doesNotMatch(log, /Planted/)
    for (const secret of [token.slice('Bearer '.length), primary.admin.password, 'eyJ']) {
      assert.ok(!log.includes(secret))
    }
  })
})

function forge(
  header: Record<string, unknown>,
  options: { key?: KeyObject; hmac?: string } = {},
): string {
  const seconds = Math.floor(Date.now() / 1000)
  const payload = {
    iss: tokenIssuer,
    aud: primaryAudience,
    sub: 'user:1',
    name: 'admin',
    iat: seconds,
    nbf: seconds,
    exp: seconds + 300,
    jti: 'forged',
    access: [{ type: 'repository', name: 'closed/app', actions: ['*'] }],
  }
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${encode(header)}.${encode(payload)}`
  if (options.hmac !== undefined) {
    const mac = createHmac('sha256', options.hmac).update(input).digest('base64url')
    return `Bearer ${input}.${mac}`
  }
  if (options.key === undefined) return `Bearer ${input}.`
  const signature = sign('sha256', Buffer.from(input), {
    key: options.key,
    dsaEncoding: 'ieee-p1363',
  })
  return `Bearer ${input}.${signature.toString('base64url')}`
}
