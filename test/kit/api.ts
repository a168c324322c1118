import assert from 'node:assert/strict'
import type { Answer, RegistryClient } from './registry-client.ts'

/** Asks the admin API. @param path behind `/api/v2.0` */
export function askApi(
  client: RegistryClient,
  method: string,
  path: string,
  body?: object,
): Promise<Answer> {
  return client.request(method, `/api/v2.0${path}`, {
    ...(body !== undefined && { body: Buffer.from(JSON.stringify(body)) }),
    headers: { 'Content-Type': 'application/json' },
  })
}

/** The same; an answer that is no success fails. */
export async function callApi(
  client: RegistryClient,
  method: string,
  path: string,
  body?: object,
): Promise<Answer> {
  const answer = await askApi(client, method, path, body)
  assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${String(answer.body)}`)
  return answer
}

/** The id of what was made. */
function madeId(answer: Answer): number {
  return Number(String(answer.headers['location']).split('/').at(-1))
}

export interface TestRule {
  readonly name: string
  /** A pattern of repositories. */
  readonly repositories: string
  /** The edges of these. */
  readonly sites: readonly string[]
  readonly serve?: string
  readonly filters?: readonly object[]
  readonly trigger?: object
}

/** Makes a rule, one that follows events unless it says otherwise. @returns its id */
export async function createRule(
  client: RegistryClient,
  { name, repositories, sites, ...rule }: TestRule,
): Promise<number> {
  const group = { name, type: 'outport-edges', selector: { sites } }
  const made = await callApi(client, 'POST', '/registries', group)
  return madeId(
    await callApi(client, 'POST', '/replication/policies', {
      name,
      dest_registry: { id: madeId(made) },
      enabled: true,
      override: true,
      trigger: { type: 'event_based' },
      filters: [{ type: 'name', value: repositories }],
      ...rule,
    }),
  )
}
