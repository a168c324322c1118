import { ApiError } from '../../shared/api/errors.ts'
import { isAcceptablePassword, passwordRule, type Passwords } from '../../shared/auth/passwords.ts'
import type { Accounts, User, UserListing, UserProfile } from '../store/accounts.ts'
import type { Admitted } from './guard.ts'

export interface UsersDeps {
  readonly accounts: Accounts
  readonly passwords: Passwords
  /** Epoch ms. */
  readonly now: () => number
}

export interface UserRequest extends UserProfile {
  readonly username: string
  readonly password: string
}

export interface PasswordChange {
  readonly oldPassword: string | undefined
  readonly newPassword: string
}

export type Users = ReturnType<typeof createUsers>

/** The first account: it cannot be deleted and stays an administrator. */
const firstUserId = 1

/** People's accounts, and the rules about them. [harbor src/server/v2.0/handler/user.go] */
export function createUsers({ accounts, passwords, now }: UsersDeps) {
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** @throws ApiError NOT_FOUND */
  async function get(id: number | undefined): Promise<User> {
    const user = id === undefined ? undefined : await accounts.get(id)
    if (user === undefined) throw absent()
    return user
  }

  /** The account, if whoever asks may change it. @throws ApiError FORBIDDEN, NOT_FOUND */
  async function getForChange(id: number | undefined, { facts }: Admitted): Promise<User> {
    const user = await get(id)
    // Else a robot that may manage people could make itself whatever they are.
    if (facts.kind === 'robot' && user.sysadmin) {
      throw new ApiError('FORBIDDEN', 'a robot cannot change a system administrator')
    }
    return user
  }

  return {
    get,
    list: (listing: UserListing) => accounts.list(listing),

    /**
     * Creates an account.
     * @returns its id
     * @throws ApiError BAD_REQUEST by the rules, CONFLICT
     */
    async create(request: UserRequest, admitted: Admitted): Promise<number> {
      checkUsername(request.username)
      checkProfile(request)
      checkPassword(request.password)
      const { username, email, realname, comment, password } = request
      const passwordHash = await passwords.hash(password)
      const user = { username, email, realname, comment, passwordHash }
      return accounts.create(user, admitted.actor, new Date(now()))
    },

    /** @throws ApiError BAD_REQUEST, CONFLICT, FORBIDDEN, NOT_FOUND */
    async setProfile(
      id: number | undefined,
      profile: UserProfile,
      admitted: Admitted,
    ): Promise<void> {
      checkProfile(profile)
      const user = await getForChange(id, admitted)
      if (!(await accounts.setProfile(user.id, profile, deedOf(admitted)))) throw absent()
    },

    /**
     * Changes a password. Who changes their own must know the old one.
     * @throws ApiError BAD_REQUEST, FORBIDDEN, NOT_FOUND
     */
    async setPassword(
      id: number | undefined,
      change: PasswordChange,
      admitted: Admitted,
    ): Promise<void> {
      const user = await getForChange(id, admitted)
      const stored = await accounts.getPasswordHash(user.id)
      const { facts } = admitted
      const isOwn = facts.kind === 'user' && facts.id === user.id
      if (isOwn && !(await passwords.verify(change.oldPassword ?? '', stored))) {
        throw new ApiError('FORBIDDEN', 'the current password is incorrect')
      }
      checkPassword(change.newPassword)
      if (stored !== undefined && (await passwords.verify(change.newPassword, stored))) {
        throw new ApiError('BAD_REQUEST', 'the new password is the old one: choose another')
      }
      const hash = await passwords.hash(change.newPassword)
      if (!(await accounts.setPassword(user.id, hash, deedOf(admitted)))) throw absent()
    },

    /** @throws ApiError FORBIDDEN, NOT_FOUND */
    async setSysadmin(
      id: number | undefined,
      sysadmin: boolean,
      admitted: Admitted,
    ): Promise<void> {
      if (admitted.facts.kind === 'robot') {
        throw new ApiError('FORBIDDEN', 'a robot cannot make or unmake a system administrator')
      }
      const user = await get(id)
      if (user.id === firstUserId && !sysadmin) {
        throw new ApiError('FORBIDDEN', `${user.username} stays a system administrator`)
      }
      if (!(await accounts.setSysadmin(user.id, sysadmin, deedOf(admitted)))) throw absent()
    },

    /** @throws ApiError FORBIDDEN for oneself and the first account, NOT_FOUND */
    async remove(id: number | undefined, admitted: Admitted): Promise<void> {
      const { facts } = admitted
      if (id === firstUserId || (facts.kind === 'user' && facts.id === id)) {
        throw new ApiError('FORBIDDEN', `the user with the id ${id} cannot be deleted`)
      }
      const user = await getForChange(id, admitted)
      const { actor, now: at } = deedOf(admitted)
      if (!(await accounts.remove(user.id, actor, at))) throw absent()
    },
  }
}

function absent(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such user')
}

/** Harbor's signs, and the colon, which Basic credentials cannot carry in a name. */
// eslint-disable-next-line no-control-regex -- control characters are what is refused
const illegalInNames = /[,~#$%:\u0000-\u001f\u007f]/

function checkUsername(username: string): void {
  const isTrimmed = username.trim() === username
  if (username.length < 1 || username.length > 255 || !isTrimmed || illegalInNames.test(username)) {
    throw new ApiError(
      'BAD_REQUEST',
      'username must have 1 to 255 characters, none of them , ~ # $ % : or a space at an end',
    )
  }
}

function checkProfile({ email, realname, comment }: UserProfile): void {
  if (email.length > 255 || !/^[^\s@<>,;"]+@[^\s@<>,;"]+\.[A-Za-z]{2,}$/.test(email)) {
    throw new ApiError('BAD_REQUEST', 'email must be an e-mail address')
  }
  if (realname.length < 1 || realname.length > 255 || /[,~#$%]/.test(realname)) {
    throw new ApiError(
      'BAD_REQUEST',
      'realname must have 1 to 255 characters, none of them , ~ # $ or %',
    )
  }
  if (comment.length > 30) {
    throw new ApiError('BAD_REQUEST', 'comment must have at most 30 characters')
  }
}

function checkPassword(password: string): void {
  if (!isAcceptablePassword(password)) throw new ApiError('BAD_REQUEST', passwordRule)
}
