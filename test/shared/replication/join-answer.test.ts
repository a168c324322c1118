import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto'
import { before, test } from 'node:test'
import {
  checkJoinAnswer,
  JoinAnswerError,
  parseJoinAnswer,
} from '../../../shared/replication/join-answer.ts'
import type { JoinAnswer } from '../../../shared/replication/enrolment.ts'
import { createCa, issueEdgeCertificate, type PemPair } from '../../../shared/trust/pki.ts'
import { fingerprintOf } from '../../../shared/trust/trust-list.ts'
import { createTestRoot, signTrustList, type TestRoot } from '../../kit/join-server.ts'

const yearMs = 365 * 86_400_000
const now = new Date()

let ca: PemPair
let otherCa: PemPair
let root: TestRoot
let own: KeyObject
let right: JoinAnswer

const spki = (key: KeyObject) => key.export({ type: 'spki', format: 'pem' }).toString()
const certify = (authority: PemPair, key: KeyObject, at = now) =>
  issueEdgeCertificate(authority, { edgeId: 'rack-7', publicKey: spki(key), now: at })

before(async () => {
  ca = await createCa('Edges', now)
  otherCa = await createCa('Others', now)
  root = createTestRoot()
  own = createPublicKey(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)
  right = {
    edge: { id: 'rack-7', name: 'Rack 7', site: 'hall', region: 'north', labels: { a: 'b' } },
    secret: 'a-secret-of-the-edge',
    certificate: certify(ca, own),
    ca: ca.cert,
    root: root.trusted,
    trust: signTrustList(root, [otherCa.cert, ca.cert]),
  }
})

const check = (answer: JoinAnswer, at = now) =>
  checkJoinAnswer(parseJoinAnswer(JSON.stringify(answer)), {
    fingerprint: fingerprintOf(root.trusted.jwk),
    publicKey: own,
    now: at,
  })

test('a right answer passes, however its PEM is wrapped', () => {
  check(right)
  check({ ...right, ca: `# the CA\n${right.ca}\n` })
})

const otherRoot = createTestRoot()
for (const [what, forge, message] of [
  [
    'another root',
    () => ({ root: otherRoot.trusted, trust: signTrustList(otherRoot, [ca.cert]) }),
    /root is not the one that the join token names/,
  ],
  [
    'a list that another key signed in the name of the root',
    () => ({ trust: signTrustList({ ...otherRoot, trusted: root.trusted }, [ca.cert]) }),
    /no key that is trusted here signed/,
  ],
  ['no list at all', () => ({ trust: undefined }), /no signed statement/],
  [
    'a CA that the root does not name',
    () => ({
      ca: otherCa.cert,
      certificate: certify(otherCa, own),
      trust: signTrustList(root, [ca.cert]),
    }),
    /does not name the edges' CA/,
  ],
  [
    'a certificate of another CA',
    () => ({ certificate: certify(otherCa, own) }),
    /CA did not issue the certificate/,
  ],
  [
    'a certificate that signed itself under the name of the CA',
    () => ({ certificate: certify({ cert: ca.cert, key: otherCa.key }, own) }),
    /CA did not issue the certificate/,
  ],
  [
    'a certificate that is over',
    () => ({ certificate: certify(ca, own, new Date(now.getTime() - yearMs)) }),
    /set the clock/,
  ],
  [
    'a certificate that is not yet',
    () => ({ certificate: certify(ca, own, new Date(now.getTime() + yearMs)) }),
    /set the clock/,
  ],
  [
    'a certificate for another key',
    () => ({
      certificate: certify(
        ca,
        createPublicKey(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey),
      ),
    }),
    /another key than this edge has/,
  ],
  ['no certificate', () => ({ certificate: 'PEM' }), /certificate is broken/],
  ['an id that leads elsewhere', () => ({ edge: { ...right.edge, id: '../x' } }), /names no edge/],
  ['a secret of two lines', () => ({ secret: 'planted-secret-1\nx' }), /brings no secret/],
] as const) {
  test(`${what} is refused, without what is secret`, () => {
    const answer = { ...right, ...forge() } as JoinAnswer
    assert.throws(
      () => check(answer),
      (error) => {
        assert.ok(error instanceof JoinAnswerError)
        assert.match(error.message, message)
        assert.doesNotMatch(error.message, /a-secret-of|planted|\n/)
        return true
      },
    )
  })
}

test('a CA that is over is refused', () => {
  assert.throws(() => check(right, new Date(now.getTime() + 20 * yearMs)), /set the clock/)
})

test('what is no answer is refused', () => {
  for (const body of ['', 'null', '[]', '<html>', '{}', '{"edge":{"id":"a"}}'])
    assert.throws(() => parseJoinAnswer(body), JoinAnswerError)
})
