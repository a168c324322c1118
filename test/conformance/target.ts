import assert from 'node:assert/strict'
import type { Answer, RegistryClient } from '../kit/registry-client.ts'

/** A running registry, and where in it the suite may work. */
export interface ConformanceTarget {
  readonly client: RegistryClient
  readonly repository: string
  /** Another repository that the client may push to and pull from. */
  readonly otherRepository: string
}

/** Called in a suite's `before`. */
export type OpenTarget = () => Promise<ConformanceTarget>

/** The target of a suite whose `before` has run. */
export function createTargetHolder(open: OpenTarget) {
  let target: ConformanceTarget | undefined
  return {
    async open(): Promise<void> {
      target = await open()
    },
    get(): ConformanceTarget {
      assert.ok(target, 'the target is opened in before()')
      return target
    },
  }
}

/** The path of a Location, which may be relative or absolute. */
export function locationOf(answer: Answer, client: RegistryClient): string {
  const { location } = answer.headers
  assert.ok(location, 'the answer has a Location')
  const url = new URL(location, client.baseUrl)
  assert.equal(url.host, client.baseUrl.host)
  return url.pathname + url.search
}

/** Asserts the status, and shows the body when it is another. */
export function expectStatus(answer: Answer, ...statuses: readonly number[]): void {
  assert.ok(
    statuses.includes(answer.status),
    `expected ${statuses.join(' or ')}, got ${answer.status}: ${answer.body.toString('utf8').slice(0, 500)}`,
  )
}

/** Asserts a refusal: its status, and the code that clients read. */
export function expectRefusal(answer: Answer, status: number, code: string): void {
  expectStatus(answer, status)
  assert.equal(answer.headers['content-type'], 'application/json')
  assert.equal(answer.codes()[0], code)
}
