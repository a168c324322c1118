import { hashGenerated, type Passwords } from '../../shared/auth/passwords.ts'
import type { Accounts } from '../store/accounts.ts'
import type { Edges } from '../store/edges.ts'
import type { Projects } from '../store/projects.ts'

export interface BootstrapDeps {
  readonly accounts: Accounts
  readonly projects: Projects
  readonly edges: Edges
  readonly passwords: Passwords
  /** Epoch ms. */
  readonly now: () => number
}

/** An edge as the configuration has it. */
export interface EdgeDeclaration {
  readonly id: string
  readonly name: string
  /** At least 128 random bits: it is hashed cheaply. */
  readonly secret: string
  /** Names of projects, or `*` among them for all. */
  readonly scope: readonly string[]
  readonly acceptPeople: boolean
}

export type Bootstrap = ReturnType<typeof createBootstrap>

/** What an installation needs before its first request. Everything may be called at every start. */
export function createBootstrap(deps: BootstrapDeps) {
  const { accounts, projects, edges, passwords } = deps
  const now = () => new Date(deps.now())

  return {
    /**
     * Creates the account `admin`, with the id 1, unless it is there.
     * @param password is asked for only when it is needed
     * @returns whether it was created; an existing one keeps its password
     */
    async ensureAdmin({
      password,
    }: {
      readonly password: () => string | Promise<string>
    }): Promise<boolean> {
      if ((await accounts.findByName('admin')) !== undefined) return false
      return accounts.ensureAdmin(await passwords.hash(await password()), now())
    },

    /** Creates the project, owned by the first account, unless there is one of that name. Returns its id. */
    async ensureProject(name: string, options: { readonly public: boolean }): Promise<number> {
      const project = { name, public: options.public, metadata: {}, ownerId: 1 }
      return (await projects.ensure(project, now())).id
    },

    /**
     * Makes the edge's record what the configuration says. What is as it should be is not written again, and what was
     * revoked stays so.
     * @returns the names in its scope that no project has (yet)
     */
    async ensureEdge(
      edge: EdgeDeclaration,
    ): Promise<{ readonly unknown: readonly string[]; readonly isRevoked: boolean }> {
      const everything = edge.scope.includes('*')
      const found = everything ? [] : await projects.findForGrant(edge.scope, undefined)
      const ids = found.map(({ id }) => id).sort((a, b) => a - b)
      const scope = everything ? '*' : ids
      const known = await edges.get(edge.id)
      if (known?.state === 'revoked') return { unknown: [], isRevoked: true }
      const stored = await edges.getSecretHash(edge.id)
      const isKnown =
        known !== undefined && stored !== undefined && (await passwords.verify(edge.secret, stored))
      const isSame =
        isKnown &&
        !known.enrolled &&
        known.name === edge.name &&
        known.acceptsPeople === edge.acceptPeople &&
        JSON.stringify(known.scope) === JSON.stringify(scope)
      if (!isSame) {
        const { id, name, acceptPeople: acceptsPeople } = edge
        // Whoever has a new secret may have a new key.
        const written = {
          secretHash: hashGenerated(edge.secret),
          keepsKey: isKnown,
          now: now(),
        }
        await edges.put({ id, name, scope, acceptsPeople }, written)
      }
      const names = new Set(found.map(({ name }) => name))
      const unknown = everything ? [] : edge.scope.filter((name) => !names.has(name))
      return { unknown, isRevoked: false }
    },
  }
}
