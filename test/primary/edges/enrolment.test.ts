import assert from 'node:assert/strict'
import { generateKeyPairSync, X509Certificate, type KeyObject } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { formatBasic } from '../../../shared/auth/basic.ts'
import {
  parseJoinToken,
  proveKey,
  type JoinAnswer,
  type JoinToken,
} from '../../../shared/replication/enrolment.ts'
import { edgeCertificateName } from '../../../shared/trust/edge-certificate.ts'
import { fingerprintOf, openTrustList } from '../../../shared/trust/trust-list.ts'
import { startAdmin, type Admin, type AdminAnswer } from '../../kit/admin.ts'

interface EdgeShown {
  readonly id: string
  readonly name: string
  readonly state: string
  readonly scope: unknown
}

/** A machine that would be an edge; keys are dear, and one machine has one. */
function createMachine(name = 'rack-1') {
  const { privateKey, publicKey: key } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const publicKey = key.export({ type: 'spki', format: 'pem' }).toString()
  return {
    publicKey,
    /** Another key's name may be given for what is not proved. */
    request(
      token: JoinToken,
      {
        by = privateKey,
        name: asked = name,
      }: { readonly by?: KeyObject; readonly name?: string } = {},
    ) {
      const proof = proveKey({ tokenId: token.id, name: asked, publicKey }, by)
      return { token: `${token.id}.${token.secret}`, name: asked, publicKey, proof }
    },
  }
}

const machine = createMachine()
const other = createMachine()

const order = { name: 'rack-1', scope: ['own'], site: 'berlin', labels: { tier: 'gpu' } }

async function startWithProject(t: TestContext, options: Parameters<typeof startAdmin>[1] = {}) {
  const admin = await startAdmin(t, options)
  await admin.bootstrap.ensureProject('own', { public: false })
  return admin
}

async function makeToken(admin: Admin, body: object = order): Promise<JoinToken> {
  const made = await admin.asAdmin('/api/v2.0/edges/tokens', { method: 'POST', body })
  assert.equal(made.status, 201)
  return parseJoinToken((made.body as { readonly token: string }).token)
}

function join(admin: Admin, body: object): Promise<AdminAnswer> {
  return admin.call('/api/v2.0/edges/join', { method: 'POST', body })
}

async function joined(admin: Admin, token: JoinToken): Promise<JoinAnswer> {
  const answer = await join(admin, machine.request(token))
  assert.equal(answer.status, 201, JSON.stringify(answer.body))
  return answer.body as JoinAnswer
}

function logIn(admin: Admin, { edge, secret }: JoinAnswer): Promise<Response> {
  const url = new URL(
    '/service/token?service=outport&scope=repository:own/app:pull',
    admin.server.url,
  )
  const authorization = formatBasic({ username: `edge$${edge.id}`, password: secret })
  return fetch(url, { headers: { authorization } })
}

test('a token makes one key an edge, which gets what it needs to believe the primary', async (t) => {
  const admin = await startWithProject(t)
  const token = await makeToken(admin)
  const answer = await joined(admin, token)
  assert.deepEqual(
    { ...answer.edge, id: '' },
    { id: '', name: 'rack-1', site: 'berlin', region: '', labels: { tier: 'gpu' } },
  )
  assert.equal(fingerprintOf(answer.root.jwk), token.fingerprint)
  assert.deepEqual(openTrustList(answer.trust, { root: answer.root }).ca, [answer.ca])
  const [certificate, ca] = [
    new X509Certificate(answer.certificate),
    new X509Certificate(answer.ca),
  ]
  assert.ok(certificate.verify(ca.publicKey))
  assert.ok(certificate.checkIssued(ca))
  assert.equal(
    certificate.publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    machine.publicKey,
  )
  assert.equal(
    certificate.checkHost(edgeCertificateName(answer.edge.id)),
    edgeCertificateName(answer.edge.id),
  )
  const days = (Date.parse(certificate.validTo) - Date.parse(certificate.validFrom)) / 86_400_000
  assert.equal(Math.round(days), 90)
  assert.ok(Date.parse(certificate.validFrom) <= Date.now() - 3_500_000, 'a slow clock takes it')
  assert.equal((await logIn(admin, answer)).status, 200)
})

test('the same key gets the same edge again, and another key nothing', async (t) => {
  const admin = await startWithProject(t)
  const token = await makeToken(admin)
  const first = await joined(admin, token)
  const again = await joined(admin, token)
  assert.equal(again.edge.id, first.edge.id)
  assert.equal((await logIn(admin, again)).status, 200)
  assert.equal((await logIn(admin, first)).status, 401, 'one credential at a time')
  const stolen = await join(admin, other.request(token))
  assert.equal(stolen.status, 401)
  assert.match(JSON.stringify(stolen.body), /outport edges token/)
})

test('a key that an edge has already makes no second one', async (t) => {
  const admin = await startWithProject(t)
  await joined(admin, await makeToken(admin))
  const copied = createMachine('rack-2')
  const token = await makeToken(admin, { ...order, name: 'rack-2' })
  const answer = await join(admin, machine.request(token, { name: 'rack-2' }))
  assert.equal(answer.status, 409, JSON.stringify(answer.body))
  assert.equal((await join(admin, copied.request(token))).status, 201, 'the token is not used up')
})

test('a token that was used counts a day longer, for its own key alone', async (t) => {
  let time = Date.now()
  const admin = await startWithProject(t, { now: () => time })
  const token = await makeToken(admin)
  const first = await joined(admin, token)
  // Until then its answer may have been lost on the way.
  time += 900_000 + 86_399_000
  assert.equal((await joined(admin, token)).edge.id, first.edge.id)
  assert.equal((await join(admin, other.request(token))).status, 401, 'another host')
  time += 1000
  assert.equal((await join(admin, machine.request(token))).status, 401)
})

test('two machines that use one token at once make one edge', async (t) => {
  const admin = await startWithProject(t)
  const token = await makeToken(admin)
  const answers = await Promise.all(
    [machine, other].map((each) => join(admin, each.request(token))),
  )
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 401])
  const listed = await admin.asAdmin('/api/v2.0/edges')
  assert.equal((listed.body as EdgeShown[]).length, 1)
})

test('an unknown, expired or withdrawn token, and a key without its proof, make nothing', async (t) => {
  let time = Date.now()
  const admin = await startWithProject(t, { now: () => time })
  const token = await makeToken(admin)
  const wrong = { ...token, secret: 'A'.repeat(43) }
  assert.equal((await join(admin, machine.request(wrong))).status, 401)
  assert.equal((await join(admin, machine.request({ ...token, id: '0'.repeat(16) }))).status, 401)
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  assert.equal((await join(admin, machine.request(token, { by: privateKey }))).status, 400)
  const renamed = { ...machine.request(token), name: 'rack-2' }
  assert.equal((await join(admin, renamed)).status, 400, 'the proof covers the name')
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const publicKey = ec.publicKey.export({ type: 'spki', format: 'pem' }).toString()
  assert.equal((await join(admin, { ...machine.request(token), publicKey })).status, 400)
  const withdrawn = await makeToken(admin)
  await admin.asAdmin(`/api/v2.0/edges/tokens/${withdrawn.id}`, { method: 'DELETE' })
  assert.equal((await join(admin, machine.request(withdrawn))).status, 401)
  time += 901_000
  assert.equal((await join(admin, machine.request(token))).status, 401)
  assert.deepEqual((await admin.asAdmin('/api/v2.0/edges')).body, [])
})

test('guesses from one address have to wait', async (t) => {
  const admin = await startWithProject(t, { failures: 3 })
  const token = await makeToken(admin)
  const guess = () => join(admin, machine.request({ ...token, secret: 'A'.repeat(43) }))
  for (let time = 0; time < 3; time++) assert.equal((await guess()).status, 401)
  const refused = await guess()
  assert.equal(refused.status, 429)
  assert.ok(Number(refused.headers.get('retry-after')) > 0)
})

test('a suspended edge logs in no more until it is resumed, and a revoked one never', async (t) => {
  const admin = await startWithProject(t)
  const answer = await joined(admin, await makeToken(admin))
  const path = `/api/v2.0/edges/${answer.edge.id}`
  const suspended = await admin.asAdmin(`${path}/suspend`, { method: 'POST' })
  assert.equal((suspended.body as EdgeShown).state, 'suspended')
  assert.equal((await logIn(admin, answer)).status, 401)
  await admin.asAdmin(`${path}/resume`, { method: 'POST' })
  assert.equal((await logIn(admin, answer)).status, 200)
  assert.equal((await admin.asAdmin(path, { method: 'DELETE' })).status, 200)
  assert.equal((await logIn(admin, answer)).status, 401)
  assert.equal(((await admin.asAdmin(path)).body as EdgeShown).state, 'revoked')
})

test('a suspended edge gets no new credential by its token', async (t) => {
  const admin = await startWithProject(t)
  const token = await makeToken(admin)
  const { edge } = await joined(admin, token)
  await admin.asAdmin(`/api/v2.0/edges/${edge.id}/suspend`, { method: 'POST' })
  assert.equal((await join(admin, machine.request(token))).status, 401)
})

test('an administrator says where an edge is and what it may read', async (t) => {
  const admin = await startWithProject(t)
  await admin.bootstrap.ensureProject('more', { public: false })
  const { edge } = await joined(admin, await makeToken(admin))
  const path = `/api/v2.0/edges/${edge.id}`
  const put = (body: object) => admin.asAdmin(path, { method: 'PUT', body })
  const changed = await put({ scope: ['own', 'more'], region: 'eu', labels: { tier: 'cpu' } })
  assert.equal(changed.status, 200)
  assert.deepEqual((changed.body as EdgeShown).scope, ['more', 'own'])
  assert.deepEqual((await admin.asAdmin(path)).body, changed.body)
  assert.equal((await put({ scope: ['nothing'] })).status, 400)
  for (const body of [
    { site: 'a\nb' },
    { name: 'a b' },
    { labels: { 'a\nb': '' } },
    { labels: { a: 'b\n' } },
    { scope: 'all' },
  ])
    assert.equal((await put(body)).status, 400, JSON.stringify(body))
  const second = await admin.asAdmin('/api/v2.0/edges/tokens', {
    method: 'POST',
    body: { ...order, name: 'rack-1' },
  })
  const token = parseJoinToken((second.body as { readonly token: string }).token)
  assert.equal((await join(admin, other.request(token))).status, 409, 'a name is one edge’s')
})

test('tokens are listed without their secrets, and what was done stands in the audit log', async (t) => {
  const admin = await startWithProject(t)
  const token = await makeToken(admin)
  const { edge, secret } = await joined(admin, token)
  const listed = JSON.stringify((await admin.asAdmin('/api/v2.0/edges/tokens')).body)
  assert.ok(listed.includes(token.id) && listed.includes(edge.id))
  const audit = JSON.stringify(await admin.records.selectFrom('audit').selectAll().execute())
  assert.ok(audit.includes(`joined as rack-1 by the token ${token.id}`))
  for (const hidden of [token.secret, secret]) assert.ok(!`${listed}${audit}`.includes(hidden))
})
