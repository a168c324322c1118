import { isIPv4 } from 'node:net'
import type { Report } from './parse.ts'

/** Whether an address, or the name `localhost`, is reached from this machine only. */
export function isLoopback(address: string): boolean {
  if (address === 'localhost') return true
  const bare = address.replace(/^\[|\]$/g, '').replace(/^::ffff:/i, '')
  return bare === '::1' || (isIPv4(bare) && bare.startsWith('127.'))
}

/** An external URL is an origin: http or https, without a path, credentials, query or fragment. */
export function checkOrigin(value: string | undefined, at: string, report: Report): void {
  const problem = value === undefined ? undefined : originProblem(value)
  if (problem !== undefined) report(at, problem)
}

/** An external URL with the port that its listener got, where it has port 0. */
export function atPortOf(externalUrl: string, listening: URL | string): string {
  const url = new URL(externalUrl)
  if (url.port !== '0') return externalUrl
  url.port = new URL(listening).port
  return url.origin
}

function originProblem(value: string): string | undefined {
  const url = URL.parse(value)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    return 'must be an absolute http or https URL'
  }
  if (url.username !== '' || url.password !== '') return 'must not hold a user name or password'
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '') {
    return `must not have a path, query or fragment: '${url.origin}' is meant`
  }
  return undefined
}
