import type { Accounts } from '../store/accounts.ts'
import type { Edges } from '../store/edges.ts'
import type { Robots } from '../store/robots.ts'
import { accountKindOf, type Account } from './account.ts'

/** The account of a log-in name; undefined when it does not exist, is disabled or has expired. */
export type FindAccount = (name: string) => Promise<Account | undefined>

/** Looks accounts up where their names say that they are. */
export function createFindAccount(stores: {
  readonly accounts: Pick<Accounts, 'findLogIn'>
  readonly robots: Pick<Robots, 'findLogIn'>
  readonly edges: Pick<Edges, 'findLogIn'>
}): FindAccount {
  const byKind = { user: stores.accounts, robot: stores.robots, edge: stores.edges }
  return (name) => byKind[accountKindOf(name)].findLogIn(name)
}

/** The account's name in the subjects that caches follow. */
export function accountSubjects({ caller }: Account): readonly string[] {
  return [`${caller.kind}:${caller.id}`]
}
